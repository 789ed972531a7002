//! Lists of tutors: filters, order and pages of twenty.

use sqlx::QueryBuilder;

use super::model::{Format, Tutor, columns};
use crate::{
    db::{Conn, Db, on},
    http::{FieldErrors, QueryPairs},
    money::{Money, Rating},
};

/// The page size of the original; clients rely on it.
pub(super) const PAGE_SIZE: i64 = 20;

/// Which tutors, in which order, which page.
#[derive(Debug)]
pub(crate) struct PageRequest {
    text: Option<String>,
    subject: Option<String>,
    min_price: Option<Money>,
    max_price: Option<Money>,
    min_rating: Option<Rating>,
    format: Option<Format>,
    location: Option<String>,
    is_verified: Option<bool>,
    order: &'static str,
    pub(super) page: i64,
}

/// The tutors of a page, and how many there are on all pages.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) tutors: Vec<Tutor>,
    pub(crate) count: i64,
}

/// The id breaks ties, so that pages never overlap.
const ORDERS: [(&str, &str); 8] = [
    ("-rating", "rating_hundredths DESC, id"),
    ("rating", "rating_hundredths, id"),
    ("-hourly_rate", "hourly_rate_minor DESC, id"),
    ("hourly_rate", "hourly_rate_minor, id"),
    ("-created_at", "created_at DESC, id DESC"),
    ("created_at", "created_at, id"),
    ("-reviews_count", "reviews_count DESC, id"),
    ("reviews_count", "reviews_count, id"),
];

impl PageRequest {
    pub(super) fn parse(query: &QueryPairs) -> Result<Self, FieldErrors> {
        let mut errors = FieldErrors::default();
        let e = &mut errors;
        let request = Self {
            text: query.text("q", 200, e).map(|q| q.to_lowercase()),
            subject: query.text("subject", 50, e),
            min_price: query.parsed("min_price", e, Money::parse),
            max_price: query.parsed("max_price", e, Money::parse),
            min_rating: query.parsed("min_rating", e, Rating::parse),
            format: query.parsed("format", e, Format::parse),
            location: query.text("location", 100, e),
            is_verified: query.parsed("is_verified", e, truth),
            order: query.parsed("ordering", e, order).unwrap_or(ORDERS[0].1),
            page: query.parsed("page", e, page_number).unwrap_or(1),
        };
        errors.or(request)
    }

    pub(super) async fn fetch(&self, db: &Db) -> Result<Page, sqlx::Error> {
        let mut conn = db.read().await?;
        on!(Conn, &mut conn, |c| {
            let mut count = QueryBuilder::new("SELECT count(*) FROM tutors WHERE 1 = 1");
            filters!(self, &mut count, db);
            let mut rows = QueryBuilder::new(concat!("SELECT ", columns!(), " FROM tutors WHERE 1 = 1"));
            filters!(self, &mut rows, db);
            rows.push(" ORDER BY ").push(self.order).push(" LIMIT ").push_bind(PAGE_SIZE);
            rows.push(" OFFSET ").push_bind((self.page - 1) * PAGE_SIZE);
            let count: i64 = count.build_query_scalar().fetch_one(&mut *c).await?;
            let tutors = rows.build_query_as().fetch_all(&mut *c).await?;
            Ok(Page { tutors, count })
        })
    }
}

/// The conditions, for either database's builder.
macro_rules! filters {
    ($self:expr, $sql:expr, $db:expr) => {{
        let (request, sql) = ($self, $sql);
        if let Some(text) = &request.text {
            sql.push(" AND folded LIKE ").push_bind(containing(text)).push(" ESCAPE '\\'");
        }
        if let Some(subject) = &request.subject {
            sql.push(" AND ").push($db.json_list_holds("subjects")).push_bind(subject.clone()).push(")");
        }
        if let Some(format) = request.format {
            sql.push(" AND ").push($db.json_list_holds("formats")).push_bind(format.as_str()).push(")");
        }
        if let Some(least) = request.min_price {
            sql.push(" AND hourly_rate_minor >= ").push_bind(least.hundredths());
        }
        if let Some(most) = request.max_price {
            sql.push(" AND hourly_rate_minor <= ").push_bind(most.hundredths());
        }
        if let Some(least) = request.min_rating {
            sql.push(" AND rating_hundredths >= ").push_bind(least.hundredths());
        }
        if let Some(location) = &request.location {
            sql.push(" AND location = ").push_bind(location.clone());
        }
        if let Some(is_verified) = request.is_verified {
            sql.push(" AND is_verified = ").push_bind(is_verified);
        }
    }};
}
use filters;

/// A LIKE pattern in which the text's own wildcards mean themselves.
fn containing(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern + "%"
}

fn truth(text: &str) -> Result<bool, &'static str> {
    match text {
        "true" | "True" | "1" => Ok(true),
        "false" | "False" | "0" => Ok(false),
        _ => Err("Give true or false."),
    }
}

fn order(text: &str) -> Result<&'static str, String> {
    let found = ORDERS.iter().find(|(name, _)| *name == text).map(|(_, sql)| *sql);
    found.ok_or_else(|| format!("Give one of {}.", ORDERS.map(|(name, _)| name).join(", ")))
}

fn page_number(text: &str) -> Result<i64, &'static str> {
    let number = text.parse().ok().filter(|n| (1..=1_000_000_000).contains(n));
    number.ok_or("Give a page number, beginning with 1.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_value_is_named() {
        let query = QueryPairs::parse(
            "min_price=abc&max_price=-1&min_rating=9&format=telepathy&is_verified=maybe&ordering=name&page=0",
        );
        let errors = PageRequest::parse(&query).expect_err("bad");
        let fields = ["format", "is_verified", "max_price", "min_price", "min_rating", "ordering", "page"];
        assert_eq!(errors.fields(), fields);
    }

    #[test]
    fn nothing_given_means_the_best_first() {
        let request = PageRequest::parse(&QueryPairs::default()).expect("valid");
        assert_eq!((request.order, request.page), ("rating_hundredths DESC, id", 1));
    }

    #[test]
    fn wildcards_in_a_text_mean_themselves() {
        assert_eq!(containing(r"50%_\"), r"%50\%\_\\%");
    }
}
