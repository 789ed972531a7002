//! One rebuild of the index at a time.
//!
//! Who rebuilds stands in an index of its own, `{alias}-claim`, in two ways. A document says who has the claim and until
//! when, by the clock of the node that keeps it: a script compares and writes in one step. It also says which number was
//! the highest that was ever built, since nothing else is left of a generation that was dropped. And an alias of that index,
//! `{alias}-claimed-by-{rebuild}`, is the fence: OpenSearch changes any number of aliases in one step, and drops indexes
//! in the same one, so a swap or a drop that names the alias of its rebuild is refused whole when another took over. The
//! document says when somebody may take over, and a clock that is wrong only makes that too early or too late; the
//! alias decides.

use std::time::Duration;

use opensearch::http::Method;
use outbox_projector::rebuild::{Generation, RebuildError, RebuildErrorKind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{OpenSearchIndex, generations::store_error};

/// Left alone when somebody else's has not ended.
const CLAIM: &str = "\
if (ctx._source.holder == null || ctx._source.holder == params.holder || ctx._source.held_until <= ctx._now) { \
  ctx._source.holder = params.holder; ctx._source.held_until = ctx._now + params.lease \
} else { ctx.op = 'none' }";

/// Whoever has it, ended or not.
const RENEW: &str = "\
if (ctx._source.holder == params.holder) { ctx._source.held_until = ctx._now + params.lease } else { ctx.op = 'none' }";

const RELEASE: &str = "\
if (ctx._source.holder == params.holder) { ctx._source.holder = null } else { ctx.op = 'none' }";

const BEGIN: &str = "\
if (ctx._source.holder != params.holder) { ctx.op = 'none' } \
else if (ctx._source.highest == null || ctx._source.highest < params.number) { ctx._source.highest = params.number }";

impl OpenSearchIndex {
    /// The claim for so long from now on; `Busy` when another has it.
    pub(super) async fn take_claim(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        if self.fences().await?.is_none() {
            self.make_claim_index(rebuild).await?;
        }
        let params = json!({ "holder": rebuild, "lease": milliseconds(lease) });
        self.write(CLAIM, &params, Some(json!({}))).await?;
        self.hold_fence(rebuild, lease).await
    }

    /// The claim for so long from now on, if nobody else has had it since; `Busy` else.
    pub(super) async fn renew_claim(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        self.extend_claim(rebuild, lease).await?;
        self.hold_fence(rebuild, lease).await
    }

    /// The fence stays: it is moved from one rebuild to the next, and never from nobody.
    pub(super) async fn end_claim(&self, rebuild: Uuid) -> Result<(), RebuildError> {
        match self.write(RELEASE, &json!({ "holder": rebuild }), None).await {
            Err(busy) if busy.kind() == RebuildErrorKind::Busy => Ok(()),
            answer => answer,
        }
    }

    /// Notes that this number is used, before anything is there under it.
    pub(super) async fn note_number(&self, generation: Generation, rebuild: Uuid) -> Result<(), RebuildError> {
        self.write(BEGIN, &json!({ "holder": rebuild, "number": generation.get() }), None).await
    }

    /// The highest number that a rebuild ever used.
    pub(super) async fn highest_number(&self) -> Result<Option<Generation>, RebuildError> {
        let answer = self.ask(&format!("/{}/_doc/rebuild", self.claims())).await?;
        let number = answer["_source"]["highest"].as_u64().and_then(|number| u32::try_from(number).ok());
        Ok(number.and_then(Generation::new))
    }

    /// For what OpenSearch cannot do in one step with a look at the fence.
    pub(super) async fn check_claim(&self, rebuild: Uuid) -> Result<(), RebuildError> {
        if self.has_fence(rebuild).await? { Ok(()) } else { Err(self.busy()) }
    }

    /// Does all of this if this rebuild is the one that claimed last, or nothing.
    pub(super) async fn change(&self, rebuild: Uuid, actions: Vec<Value>) -> Result<(), RebuildError> {
        let fence = where_it_stands(&self.claims(), &self.fence_of(rebuild));
        let fenced: Vec<_> = fence.into_iter().chain(actions).collect();
        match self.0.client.call(Method::Post, "/_aliases", Some(json!({ "actions": fenced }))).await {
            Err(missing) if missing.status() == Some(404) && !self.has_fence(rebuild).await? => Err(self.busy()),
            answer => answer.map(drop).map_err(store_error),
        }
    }

    async fn extend_claim(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        self.write(RENEW, &json!({ "holder": rebuild, "lease": milliseconds(lease) }), None).await
    }

    /// Moves the fence to the rebuild that the document names.
    async fn hold_fence(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        if self.has_fence(rebuild).await? {
            return Ok(());
        }
        self.move_fence(rebuild).await?;
        // Whoever was frozen in front of the move may have taken the fence from somebody who claimed meanwhile. That one
        // moves it back with its next renewal, if it did not end; this one hears here that it has no claim.
        self.extend_claim(rebuild, lease).await
    }

    /// Runs a script on the document, which need not be there with an `upsert`; `Busy` when it leaves that alone.
    async fn write(&self, source: &str, params: &Value, upsert: Option<Value>) -> Result<(), RebuildError> {
        let mut body = json!({ "script": { "source": source, "params": params } });
        if let Some(upsert) = upsert {
            body["scripted_upsert"] = json!(true);
            body["upsert"] = upsert;
        }
        let path = format!("/{}/_update/rebuild?retry_on_conflict=3", self.claims());
        match self.0.client.call(Method::Post, &path, Some(body)).await {
            Ok(answer) if answer["result"] == "noop" => Err(self.busy()),
            Err(refused) if matches!(refused.status(), Some(404 | 409)) => Err(self.busy()),
            answer => answer.map(drop).map_err(store_error),
        }
    }

    /// From whoever has it, unless that changes in between.
    pub(super) async fn move_fence(&self, rebuild: Uuid) -> Result<(), RebuildError> {
        let index = self.claims();
        let others = self.fences().await?.unwrap_or_default().into_iter();
        let taken = others.map(|alias| json!({ "remove": { "index": index, "alias": alias, "must_exist": true } }));
        let own = json!({ "add": { "index": index, "alias": self.fence_of(rebuild) } });
        let body = json!({ "actions": taken.chain([own]).collect::<Vec<_>>() });
        match self.0.client.call(Method::Post, "/_aliases", Some(body)).await {
            Err(missing) if missing.status() == Some(404) => Err(self.busy()),
            answer => answer.map(drop).map_err(store_error),
        }
    }

    /// With the fence of whoever makes it first.
    async fn make_claim_index(&self, rebuild: Uuid) -> Result<(), RebuildError> {
        let definition = json!({
            "settings": { "number_of_shards": 1, "auto_expand_replicas": "0-1" },
            "mappings": {
                "dynamic": "strict",
                "properties": {
                    "holder": { "type": "keyword" }, "held_until": { "type": "date" }, "highest": { "type": "long" },
                },
            },
            "aliases": { (self.fence_of(rebuild)): {} },
        });
        match self.0.client.call(Method::Put, &format!("/{}", self.claims()), Some(definition)).await {
            // Another process was quicker.
            Err(refused) if refused.status() == Some(400) && self.fences().await?.is_some() => Ok(()),
            answer => answer.map(drop).map_err(store_error),
        }
    }

    async fn has_fence(&self, rebuild: Uuid) -> Result<bool, RebuildError> {
        Ok(self.fences().await?.unwrap_or_default() == [self.fence_of(rebuild)])
    }

    /// `None` when the index is not there.
    async fn fences(&self) -> Result<Option<Vec<String>>, RebuildError> {
        let index = self.claims();
        let answer = self.ask(&format!("/{index}/_alias")).await?;
        Ok(answer[&index]["aliases"].as_object().map(|aliases| aliases.keys().cloned().collect()))
    }

    pub(super) fn claims(&self) -> String {
        format!("{}-claim", self.0.alias)
    }

    fn fence_of(&self, rebuild: Uuid) -> String {
        format!("{}-claimed-by-{rebuild}", self.0.alias)
    }

    fn busy(&self) -> RebuildError {
        let message = format!(
            "another rebuild of {} is under way, or this one has no claim; when the other died, its claim ends soon",
            self.0.alias
        );
        RebuildError::new(RebuildErrorKind::Busy, message)
    }
}

fn milliseconds(lease: Duration) -> u64 {
    u64::try_from(lease.as_millis()).unwrap_or(u64::MAX / 2)
}

/// Actions of a request that fails whole where the index does not have the alias: taken away, and put back.
pub(super) fn where_it_stands(index: &str, alias: &str) -> [Value; 2] {
    [
        json!({ "remove": { "index": index, "alias": alias, "must_exist": true } }),
        json!({ "add": { "index": index, "alias": alias } }),
    ]
}
