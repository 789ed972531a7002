//! Pictures as SVG.

use std::path::Path;

use plotters::prelude::*;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Lines over a common axis.
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) across: &'a str,
    pub(crate) up: &'a str,
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
}

const SIZE: (u32, u32) = (900, 420);
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(255, 127, 14),
    RGBColor(148, 103, 189),
    RGBColor(90, 90, 90),
];

impl Chart<'_> {
    pub(crate) fn draw(&self, path: &Path) -> Result<()> {
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let right = points().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max);
        let top = 1.05 * points().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            // The names of the lines stand at the right, beside them.
            .build_cartesian_2d(0.0..1.4 * right, 0.0..top)?;
        chart.configure_mesh().light_line_style(TRANSPARENT).x_desc(self.across).y_desc(self.up).draw()?;
        for ((name, points), colour) in self.lines.iter().zip(COLOURS.into_iter().cycle()) {
            let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
            chart
                .draw_series(line)?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::MiddleRight)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .draw()?;
        area.present()?;
        eprintln!("picture: {}", path.display());
        Ok(())
    }
}
