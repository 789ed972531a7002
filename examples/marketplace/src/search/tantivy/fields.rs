//! The index's schema and analyzers.

use tantivy::{
    Index, TantivyError,
    schema::{FAST, Field, INDEXED, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions},
    tokenizer::{
        Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer, TokenStream,
    },
};

/// Words as they are written, in lower case: what typos and beginnings are compared with.
const PLAIN: &str = "plain";
/// Words cut to their English stems.
const STEMMED: &str = "stemmed";

const TEXTS: [&str; 3] = ["full_name", "headline", "bio"];
/// The headline says what somebody teaches.
const WEIGHTS: [f32; 3] = [1.0, 2.0, 1.0];

pub(super) fn schema() -> Schema {
    let analyzed = |analyzer: &str| {
        let indexing =
            TextFieldIndexing::default().set_tokenizer(analyzer).set_index_option(IndexRecordOption::WithFreqs);
        TextOptions::default().set_indexing_options(indexing)
    };
    let mut schema = Schema::builder();
    schema.add_text_field("key", STRING);
    schema.add_u64_field("version", FAST);
    schema.add_i64_field("id", FAST);
    schema.add_bool_field("deleted", INDEXED);
    for name in TEXTS {
        schema.add_text_field(name, analyzed(STEMMED));
        schema.add_text_field(&format!("{name}_plain"), analyzed(PLAIN));
    }
    schema.add_text_field("subjects", STRING);
    schema.add_text_field("formats", STRING);
    schema.add_text_field("location", STRING);
    schema.add_i64_field("hourly_rate", INDEXED | FAST);
    schema.add_i64_field("rating", INDEXED | FAST);
    schema.add_bytes_field("document", STORED);
    schema.build()
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    /// Which document: what [`id`](Self::id) says, as text; a deleted one has nothing else.
    pub(super) key: Field,
    pub(super) version: Field,
    pub(super) id: Field,
    pub(super) deleted: Field,
    pub(super) texts: [TextField; 3],
    pub(super) subjects: Field,
    pub(super) formats: Field,
    pub(super) location: Field,
    pub(super) hourly_rate: Field,
    pub(super) rating: Field,
    /// The whole document as JSON, to be answered.
    pub(super) document: Field,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct TextField {
    pub(super) stemmed: Field,
    pub(super) plain: Field,
    pub(super) weight: f32,
}

impl Fields {
    pub(super) fn of(schema: &Schema) -> Result<Self, TantivyError> {
        let field = |name: &str| schema.get_field(name);
        let text = |i: usize| {
            let plain = field(&format!("{}_plain", TEXTS[i]))?;
            Ok::<_, TantivyError>(TextField { stemmed: field(TEXTS[i])?, plain, weight: WEIGHTS[i] })
        };
        Ok(Self {
            key: field("key")?,
            version: field("version")?,
            id: field("id")?,
            deleted: field("deleted")?,
            texts: [text(0)?, text(1)?, text(2)?],
            subjects: field("subjects")?,
            formats: field("formats")?,
            location: field("location")?,
            hourly_rate: field("hourly_rate")?,
            rating: field("rating")?,
            document: field("document")?,
        })
    }
}

pub(super) fn register_analyzers(index: &Index) {
    index.tokenizers().register(PLAIN, plain());
    index.tokenizers().register(STEMMED, stemmed());
}

/// The words of a query, as the plain and as the stemmed fields have them.
pub(super) fn words(text: &str) -> Vec<Word> {
    let plain = tokens(plain(), text);
    let stems = tokens(stemmed(), text);
    plain.into_iter().zip(stems).map(|(plain, stem)| Word { plain, stem }).collect()
}

/// A word of a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) plain: String,
    pub(super) stem: String,
}

fn tokens(mut analyzer: TextAnalyzer, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    analyzer.token_stream(text).process(&mut |token| out.push(token.text.clone()));
    out
}

fn plain() -> TextAnalyzer {
    // Both analyzers drop the same words, so that the words of a query pair up.
    TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(60))
        .filter(LowerCaser)
        .filter(StopWordFilter::new(Language::English).unwrap_or_else(|| StopWordFilter::remove([])))
        .build()
}

fn stemmed() -> TextAnalyzer {
    TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(60))
        .filter(LowerCaser)
        .filter(StopWordFilter::new(Language::English).unwrap_or_else(|| StopWordFilter::remove([])))
        .filter(Stemmer::new(Language::English))
        .build()
}
