//! What the log says the read model has to hold, and how it differs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use sqlx::PgPool;
use uuid::Uuid;

use crate::read_model::{ERASED, POISONED};

/// Which read model a projection writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A SQL projection: effects and position in one transaction.
    Sql,
    /// An inbox: each event with its claim in a transaction of its own.
    Inbox,
    /// Documents with versions in a store that knows no positions.
    Versioned,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Sql, Self::Inbox, Self::Versioned];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sql => "SQL projection",
            Self::Inbox => "inbox",
            Self::Versioned => "versioned projection",
        }
    }
}

/// An event as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) id: Uuid,
    pub(crate) aggregate: String,
    pub(crate) event_type: String,
    /// Which change of the aggregate it tells of.
    pub(crate) v: i64,
}

/// What the events of a log lead to, each applied once and in order.
#[derive(Debug, Default)]
pub(crate) struct Model {
    lists: BTreeMap<String, Vec<i64>>,
    documents: BTreeMap<String, Option<i64>>,
    pub(crate) poison: BTreeSet<Uuid>,
}

impl Model {
    /// Of all events of the log in this database.
    pub(crate) async fn of_log(pool: &PgPool) -> Self {
        let rows: Vec<(Uuid, String, String, i64)> = sqlx::query_as(
            "SELECT id, aggregate_id, event_type, (convert_from(payload, 'UTF8')::jsonb ->> 'v')::bigint \
             FROM outbox.outbox_event ORDER BY position",
        )
        .fetch_all(pool)
        .await
        .expect("the log");
        let logged = rows.into_iter().map(|(id, aggregate, event_type, v)| Logged { id, aggregate, event_type, v });
        Self::of(logged)
    }

    /// Of these events, which are in the order of their log.
    pub(crate) fn of(events: impl IntoIterator<Item = Logged>) -> Self {
        let mut model = Self::default();
        for Logged { id, aggregate, event_type, v } in events {
            if event_type == POISONED {
                model.poison.insert(id);
                continue;
            }
            model.documents.insert(aggregate.clone(), (event_type != ERASED).then_some(v));
            model.lists.entry(aggregate).or_default().push(v);
        }
        model
    }

    pub(crate) fn len(&self) -> usize {
        self.lists.values().map(Vec::len).sum()
    }

    pub(crate) async fn compare(&self, kind: Kind, pool: &PgPool) -> Difference {
        match kind {
            Kind::Sql | Kind::Inbox => self.compare_lists(pool).await,
            Kind::Versioned => self.compare_documents(pool).await,
        }
    }

    async fn compare_lists(&self, pool: &PgPool) -> Difference {
        let entries: Vec<(String, i64)> =
            sqlx::query_as("SELECT aggregate, v FROM entry ORDER BY n").fetch_all(pool).await.expect("entries");
        let latest: Vec<(String, i64, i64)> =
            sqlx::query_as("SELECT aggregate, count, v FROM latest").fetch_all(pool).await.expect("latest");
        let mut found: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for (aggregate, v) in &entries {
            found.entry(aggregate).or_default().push(*v);
        }
        let mut difference = Difference::default();
        for (aggregate, list) in &self.lists {
            difference.add(list, found.remove(aggregate.as_str()).as_deref().unwrap_or_default());
        }
        difference.wrong += found.len();
        let counted: BTreeMap<&str, (i64, i64)> =
            latest.iter().map(|(aggregate, count, v)| (aggregate.as_str(), (*count, *v))).collect();
        let expected = self.lists.iter().filter_map(|(aggregate, list)| {
            Some((aggregate.as_str(), (i64::try_from(list.len()).ok()?, *list.last()?)))
        });
        let expected: BTreeMap<&str, (i64, i64)> = expected.collect();
        difference.wrong += usize::from(counted.len() != expected.len());
        difference.wrong += expected.iter().filter(|(aggregate, row)| counted.get(*aggregate) != Some(row)).count();
        difference
    }

    async fn compare_documents(&self, pool: &PgPool) -> Difference {
        let rows: Vec<(String, Option<i64>)> =
            sqlx::query_as("SELECT id, v FROM document").fetch_all(pool).await.expect("documents");
        let found: BTreeMap<String, Option<i64>> = rows.into_iter().collect();
        let missing = self.documents.keys().filter(|id| !found.contains_key(*id)).count();
        let wrong = found.iter().filter(|(id, v)| self.documents.get(*id) != Some(v)).count();
        Difference { missing, wrong, ..Difference::default() }
    }
}

/// How a read model differs from what the log says. All zero: not at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Effects that were never made.
    pub(crate) missing: usize,
    /// Effects that were made again.
    pub(crate) twice: usize,
    /// Effects behind one that belongs behind them.
    pub(crate) out_of_order: usize,
    /// Counters, last values and documents that are not what they should be.
    pub(crate) wrong: usize,
}

impl Difference {
    /// Of one list. `expected` rises.
    fn add(&mut self, expected: &[i64], found: &[i64]) {
        let distinct: BTreeSet<i64> = found.iter().copied().collect();
        self.missing += expected.iter().filter(|v| !distinct.contains(v)).count();
        self.wrong += distinct.iter().filter(|v| expected.binary_search(v).is_err()).count();
        self.twice += found.len() - distinct.len();
        self.out_of_order += found.windows(2).filter(|pair| pair[1] < pair[0]).count();
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { missing, twice, out_of_order, wrong } = self;
        write!(f, "{missing} missing, {twice} twice, {out_of_order} out of order, {wrong} wrong")
    }
}

#[test]
fn each_kind_of_difference_is_counted() {
    let of = |found: &[i64]| {
        let mut difference = Difference::default();
        difference.add(&[1, 2, 4, 5], found);
        difference
    };
    assert_eq!(of(&[1, 2, 4, 5]), Difference::default());
    assert_eq!(of(&[1, 2, 5]), Difference { missing: 1, ..Difference::default() });
    assert_eq!(of(&[1, 2, 2, 4, 5]), Difference { twice: 1, ..Difference::default() });
    assert_eq!(of(&[1, 4, 2, 5]), Difference { out_of_order: 1, ..Difference::default() });
    assert_eq!(of(&[1, 2, 3, 4, 5]), Difference { wrong: 1, ..Difference::default() });
}
