use std::sync::Arc;

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{Html, IntoResponse, Response},
};

use super::{
    for_people::{counted, excerpt, initials, month},
    live::Panel,
};
use crate::{
    app::PublicUrl,
    http::{Problem, QueryPairs},
    money::{Money, Rating, grouped},
    pipeline::Live,
    search::{Found, SearchDocument, SearchIndex, SearchQuery},
};

#[derive(Template)]
#[template(path = "index.html")]
struct Page {
    form: Form,
    results: Results,
    panel: Panel,
    public_url: String,
}

#[derive(Template)]
#[template(path = "results.html")]
struct Results {
    cards: Vec<Card>,
    heading: String,
    trouble: Option<String>,
    previous: Option<String>,
    next: Option<String>,
}

/// What the form shows again.
struct Form {
    text: String,
    subject: String,
    location: String,
    max_price: String,
    format: String,
    min_rating: String,
}

struct Card {
    name: String,
    initials: String,
    /// One of the style sheet's eight colours.
    hue: i64,
    verified: bool,
    headline: String,
    bio: String,
    subjects: Vec<String>,
    place: String,
    price: String,
    rating: Option<String>,
    reviews: String,
    since: String,
}

/// The page. A request of htmx gets only the results.
pub(super) async fn index(
    State(index): State<Arc<dyn SearchIndex>>,
    State(live): State<Live>,
    State(public_url): State<PublicUrl>,
    headers: HeaderMap,
    query: QueryPairs,
) -> Result<Response, Problem> {
    let results = match SearchQuery::parse(&query) {
        Ok(search) => match index.search(&search).await {
            Ok(found) => Results::of(found, &search, &query),
            Err(error) => {
                tracing::warn!(error = outbox_core::error::chain(&error), "a search failed");
                Results::trouble("Search does not answer right now. Try again in a moment.")
            }
        },
        Err(errors) => Results::trouble(&errors.sentence()),
    };
    let only_results = headers.contains_key("hx-request") && !headers.contains_key("hx-history-restore-request");
    let html = if only_results {
        results.render()
    } else {
        let panel = Panel::of(&live.now().await);
        Page { form: Form::of(&query), results, panel, public_url: public_url.as_str().to_owned() }.render()
    };
    let html = html.map_err(|error| {
        tracing::error!(%error, "the page cannot be rendered");
        Problem::internal()
    })?;
    let caching = [(header::VARY, "HX-Request"), (header::CACHE_CONTROL, "no-cache")];
    Ok((caching, Html(html)).into_response())
}

impl Results {
    fn of(found: Found, search: &SearchQuery, query: &QueryPairs) -> Self {
        let link = |offset: usize| format!("/?{}", query.with("offset", &offset.to_string()));
        let (first, shown) = (search.offset + 1, found.documents.len());
        let many = counted(found.total as i64, "tutor", "tutors");
        let heading = match shown {
            0 if found.total == 0 => "No tutor found".to_owned(),
            0 => many,
            _ if shown as u64 == found.total => many,
            _ => format!("{many}, {} to {} shown", grouped(first as i64), grouped((search.offset + shown) as i64)),
        };
        let next = search.offset + search.limit;
        Self {
            heading,
            trouble: None,
            previous: (search.offset > 0).then(|| link(search.offset.saturating_sub(search.limit))),
            // The index refuses to go deeper than ten thousand.
            next: ((next as u64) < found.total && next + search.limit <= 10_000).then(|| link(next)),
            cards: found.documents.into_iter().map(Card::of).collect(),
        }
    }

    fn trouble(text: &str) -> Self {
        Self {
            cards: Vec::new(),
            heading: "Nothing was searched".to_owned(),
            trouble: Some(text.to_owned()),
            previous: None,
            next: None,
        }
    }
}

impl Form {
    fn of(query: &QueryPairs) -> Self {
        let value = |name| query.one(name).unwrap_or_default().to_owned();
        Self {
            text: value("q"),
            subject: value("subjects"),
            location: value("location"),
            max_price: value("max_price"),
            format: value("format"),
            min_rating: value("min_rating"),
        }
    }
}

impl Card {
    fn of(document: SearchDocument) -> Self {
        let rating = Rating::from_number(document.rating).filter(|_| document.reviews_count > 0);
        let formats = match document.formats.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => None,
            ["online"] => Some("online"),
            ["offline"] => Some("in person"),
            _ => Some("online and in person"),
        };
        let place = [Some(document.location.as_str()).filter(|l| !l.is_empty()), formats];
        Self {
            initials: initials(&document.full_name),
            hue: document.id % 8,
            name: document.full_name,
            verified: document.is_verified,
            headline: document.headline,
            bio: excerpt(&document.bio, 180),
            subjects: document.subjects,
            place: place.into_iter().flatten().collect::<Vec<_>>().join(" · "),
            price: Money::from_number(document.hourly_rate).map(Money::for_people).unwrap_or_default(),
            rating: rating.map(|r| r.to_string()),
            reviews: counted(document.reviews_count, "review", "reviews"),
            since: month(&document.created_at),
        }
    }
}
