//! Demo tutors: the same ones every time, loaded as any tutor is written, through the outbox.

mod dice;
mod people;
mod teaching;

use std::collections::HashSet;

use anyhow::Context;

use crate::{
    money::{Money, Rating},
    tutors::{Format, Profile, TutorStore},
};
use dice::Dice;

/// What was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loaded {
    Nothing,
    Tutors(usize),
}

const COUNT: usize = 240;

/// Loads demo tutors when asked to, or by default where `is_safe`: in a new directory of a server that only this
/// machine reaches. Never next to other tutors.
pub(crate) async fn load_if_wanted(tutors: &TutorStore, asked: Option<bool>, is_safe: bool) -> anyhow::Result<Loaded> {
    if !asked.unwrap_or(is_safe) {
        return Ok(Loaded::Nothing);
    }
    if tutors.any().await.context("tutors cannot be read")? {
        if asked == Some(true) {
            tracing::warn!("there are tutors already; no demo tutors were loaded");
        }
        return Ok(Loaded::Nothing);
    }
    if !is_safe {
        tracing::warn!("loading {COUNT} demo tutors, as asked; they are invented people");
    }
    // All or none, in one transaction: an interrupted start leaves no half of them.
    let created = tutors.create(profiles().collect()).await.context("demo tutors cannot be loaded")?;
    Ok(Loaded::Tutors(created.len()))
}

/// Invented people, deterministically, no two of one name.
fn profiles() -> impl Iterator<Item = Profile> {
    let mut dice = Dice::new(2_025);
    let mut names = HashSet::new();
    std::iter::repeat_with(move || profile(&mut dice)).filter(move |p| names.insert(p.full_name.clone())).take(COUNT)
}

fn profile(dice: &mut Dice) -> Profile {
    let (full_name, location) = people::person(dice);
    let lesson = teaching::lesson(dice);
    let years = dice.between(2, 24);
    // Experience costs, and few are rated badly.
    let rate = (600 + 70 * years + dice.between(0, 900)) / 50 * 50;
    let reviews = dice.between(0, 12) * dice.between(0, 14);
    let rating = if reviews == 0 { 0 } else { 500 - dice.between(0, 11) * dice.between(0, 12) };
    let formats = match dice.between(0, 9) {
        0..=3 => vec![Format::Online],
        4 | 5 => vec![Format::Offline],
        _ => Format::ALL.to_vec(),
    };
    Profile {
        full_name,
        avatar_url: String::new(),
        headline: lesson.headline,
        bio: lesson.bio.replace("{years}", &years.to_string()),
        subjects: lesson.subjects,
        hourly_rate: Money::from_hundredths(rate * 100).unwrap_or_default(),
        rating: Rating::from_hundredths(rating).unwrap_or_default(),
        reviews_count: reviews,
        is_verified: reviews > 20,
        location: location.to_owned(),
        formats,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_people_every_time_and_all_different() {
        let first: Vec<Profile> = profiles().collect();
        assert_eq!(first, profiles().collect::<Vec<_>>());
        assert_eq!(first.len(), COUNT);
        let names: HashSet<&str> = first.iter().map(|p| p.full_name.as_str()).collect();
        assert_eq!(names.len(), COUNT);
        assert!(first.iter().any(|p| p.full_name.starts_with(|c: char| ('А'..='я').contains(&c))), "Cyrillic names");
        assert!(first.iter().all(|p| !p.headline.contains('{') && !p.bio.contains('{')), "no holes in the texts");
        assert!(first.iter().all(|p| p.rating.hundredths() >= 300 || p.reviews_count == 0));
    }
}
