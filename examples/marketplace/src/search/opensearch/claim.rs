//! One rebuild of the index at a time.
//!
//! Who rebuilds stands in an index of its own, `{alias}-claim`, in two ways. A document says who has the claim and until
//! when, by the clock of the node that keeps it: a script compares and writes in one step. And an alias of that index,
//! `{alias}-claimed-by-{rebuild}`, is the fence: OpenSearch changes any number of aliases in one step, and drops indexes
//! in the same one, so a swap or a drop that names the alias of its rebuild is refused whole when another took over. The
//! document says when somebody may take over, and a clock that is wrong only makes that too early or too late; the
//! alias decides.

use std::time::Duration;

use opensearch::http::Method;
use outbox_projector::rebuild::{RebuildError, RebuildErrorKind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{OpenSearchIndex, generations::store_error};

/// Left alone when somebody else's has not ended.
const CLAIM: &str = "\
if (ctx._source.holder == null || ctx._source.holder == params.holder || ctx._source.held_until <= ctx._now) { \
  ctx._source.holder = params.holder; ctx._source.held_until = ctx._now + params.lease \
} else { ctx.op = 'none' }";

const RELEASE: &str = "ctx.op = ctx._source.holder == params.holder ? 'delete' : 'none'";

impl OpenSearchIndex {
    /// The claim for so long from now on; `Busy` when another has it.
    pub(super) async fn take_claim(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        if self.fences().await?.is_none() {
            self.make_claim_index(rebuild).await?;
        }
        self.write_claim(rebuild, lease).await?;
        if !self.has_fence(rebuild).await? {
            self.move_fence(rebuild).await?;
            // Whoever was frozen in front of the move may have taken the fence from somebody who claimed meanwhile. That
            // one moves it back with its next renewal, if it did not end; this one hears here that it has no claim.
            self.write_claim(rebuild, lease).await?;
        }
        Ok(())
    }

    /// The fence stays: it is moved from one rebuild to the next, and never from nobody.
    pub(super) async fn end_claim(&self, rebuild: Uuid) -> Result<(), RebuildError> {
        let script = json!({ "source": RELEASE, "params": { "holder": rebuild } });
        let path = format!("/{}/_update/rebuild?retry_on_conflict=3", self.claims());
        match self.0.client.call(Method::Post, &path, Some(json!({ "script": script }))).await {
            Err(missing) if missing.status() == Some(404) => Ok(()),
            answer => answer.map(drop).map_err(store_error),
        }
    }

    /// For what OpenSearch cannot do in one step with a look at the fence.
    pub(super) async fn check_claim(&self, rebuild: Uuid) -> Result<(), RebuildError> {
        if self.has_fence(rebuild).await? { Ok(()) } else { Err(self.busy()) }
    }

    /// Does all of this if this rebuild is the one that claimed last, or nothing.
    pub(super) async fn change(&self, rebuild: Uuid, actions: Vec<Value>) -> Result<(), RebuildError> {
        // Taken away, which fails where it is not there, and put back.
        let fence = json!({ "index": self.claims(), "alias": self.fence_of(rebuild) });
        let mut own = fence.clone();
        own["must_exist"] = json!(true);
        let fenced: Vec<_> = [json!({ "remove": own }), json!({ "add": fence })].into_iter().chain(actions).collect();
        match self.0.client.call(Method::Post, "/_aliases", Some(json!({ "actions": fenced }))).await {
            Err(missing) if missing.status() == Some(404) && !self.has_fence(rebuild).await? => Err(self.busy()),
            answer => answer.map(drop).map_err(store_error),
        }
    }

    async fn write_claim(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        let lease = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX / 2);
        let script = json!({ "source": CLAIM, "params": { "holder": rebuild, "lease": lease } });
        let body = json!({ "scripted_upsert": true, "upsert": {}, "script": script });
        let path = format!("/{}/_update/rebuild?retry_on_conflict=3", self.claims());
        match self.0.client.call(Method::Post, &path, Some(body)).await {
            Ok(answer) if answer["result"] == "noop" => Err(self.busy()),
            Err(conflict) if conflict.status() == Some(409) => Err(self.busy()),
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
            "settings": { "number_of_shards": 1, "number_of_replicas": 0 },
            "mappings": {
                "dynamic": "strict",
                "properties": { "holder": { "type": "keyword" }, "held_until": { "type": "date" } },
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
