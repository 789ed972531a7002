//! Queries against the embedded index.

use std::ops::Bound;

use tantivy::{
    DocAddress, Order, Searcher, TantivyDocument, TantivyError, Term,
    collector::{
        Count, TopDocs,
        sort_key::{SortBySimilarityScore, SortByStaticFastValue},
    },
    query::{AllQuery, BooleanQuery, BoostQuery, FuzzyTermQuery, Occur, Query, RangeQuery, TermQuery},
    schema::{Field, IndexRecordOption, Value},
};

use super::{
    super::{Found, SearchDocument, SearchQuery},
    fields::{Fields, Word, words},
};

pub(super) fn ask(fields: &Fields, searcher: &Searcher, query: &SearchQuery) -> Result<Found, TantivyError> {
    let filter = BooleanQuery::new(clauses(fields, query));
    let page = TopDocs::with_limit(query.limit).and_offset(query.offset);
    let by_id = (SortByStaticFastValue::<i64>::for_field("id"), Order::Asc);
    let (addresses, total): (Vec<DocAddress>, usize) = if query.text.is_some() {
        let (top, total) = searcher.search(&filter, &(page.order_by((SortBySimilarityScore, by_id)), Count))?;
        (top.into_iter().map(|(_, address)| address).collect(), total)
    } else {
        let by_rating = (SortByStaticFastValue::<i64>::for_field("rating"), Order::Desc);
        let (top, total) = searcher.search(&filter, &(page.order_by((by_rating, by_id)), Count))?;
        (top.into_iter().map(|(_, address)| address).collect(), total)
    };
    let documents = addresses.into_iter().map(|address| stored(fields, searcher, address)).collect::<Result<_, _>>()?;
    Ok(Found { documents, total: total as u64 })
}

fn stored(fields: &Fields, searcher: &Searcher, address: DocAddress) -> Result<SearchDocument, TantivyError> {
    let document: TantivyDocument = searcher.doc(address)?;
    let json = document.get_first(fields.document).and_then(|v| v.as_bytes()).unwrap_or_default();
    serde_json::from_slice(json)
        .map_err(|e| TantivyError::InternalError(format!("a stored document is unreadable: {e}")))
}

fn clauses(fields: &Fields, query: &SearchQuery) -> Vec<(Occur, Box<dyn Query>)> {
    let mut clauses: Vec<(Occur, Box<dyn Query>)> = vec![
        (Occur::Must, query.text.as_ref().map_or_else(|| boxed(AllQuery), |text| text_clause(fields, text))),
        (Occur::MustNot, boxed(TermQuery::new(Term::from_field_bool(fields.deleted, true), IndexRecordOption::Basic))),
    ];
    let mut filter = |query: Box<dyn Query>| clauses.push((Occur::Must, boxed(BoostQuery::new(query, 0.0))));
    if !query.subjects.is_empty() {
        filter(boxed(BooleanQuery::union(query.subjects.iter().map(|s| exact(fields.subjects, s)).collect())));
    }
    if let Some(format) = query.format {
        filter(exact(fields.formats, format.as_str()));
    }
    if let Some(location) = &query.location {
        filter(exact(fields.location, location));
    }
    let at = |field, hundredths| Bound::Included(Term::from_field_i64(field, hundredths));
    if query.min_price.is_some() || query.max_price.is_some() {
        let bound = |price: Option<crate::money::Money>| {
            price.map_or(Bound::Unbounded, |p| at(fields.hourly_rate, p.hundredths()))
        };
        filter(boxed(RangeQuery::new(bound(query.min_price), bound(query.max_price))));
    }
    if let Some(least) = query.min_rating {
        filter(boxed(RangeQuery::new(at(fields.rating, least.hundredths()), Bound::Unbounded)));
    }
    clauses
}

/// Any word in any text field: as its stem, with a typo, or, for the last word, as a beginning.
fn text_clause(fields: &Fields, text: &str) -> Box<dyn Query> {
    let words = words(text);
    let last = words.len().saturating_sub(1);
    let mut any = Vec::new();
    for (i, word) in words.iter().enumerate() {
        for field in &fields.texts {
            let mut add = |query: Box<dyn Query>, weight: f32| {
                any.push(boxed(BoostQuery::new(query, weight * field.weight)));
            };
            let stem = Term::from_field_text(field.stemmed, &word.stem);
            add(boxed(TermQuery::new(stem, IndexRecordOption::WithFreqs)), 1.0);
            // The looser the likeness, the less it counts; both score 1 wherever they match.
            let plain = Term::from_field_text(field.plain, &word.plain);
            match typos(word) {
                0 => {}
                typos => add(boxed(FuzzyTermQuery::new(plain.clone(), typos, true)), 0.3),
            }
            if i == last {
                add(boxed(FuzzyTermQuery::new_prefix(plain, 0, true)), 0.5);
            }
        }
    }
    boxed(BooleanQuery::union(any))
}

/// How many letters may differ: none in one or two, one in three to five, two in longer words.
fn typos(word: &Word) -> u8 {
    match word.plain.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        _ => 2,
    }
}

fn exact(field: Field, value: &str) -> Box<dyn Query> {
    boxed(TermQuery::new(Term::from_field_text(field, value), IndexRecordOption::Basic))
}

fn boxed(query: impl Query) -> Box<dyn Query> {
    Box::new(query)
}
