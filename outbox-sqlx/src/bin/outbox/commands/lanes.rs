use clap::Args;
use outbox_core::{
    event::LaneSet,
    log::{ConsumerInfo, ConsumerName},
};
use serde_json::json;

use super::Context;
use crate::{
    failure::Failure,
    table::Table,
    text::{age, lanes},
};

const EXAMPLES: &str = "\
Examples:
  outbox lanes
  outbox lanes --consumer search
  outbox lanes --key Tutor/42      # which lane the events of an aggregate, or of an ordering key, fall into";

/// Shows who owns which lanes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Only of this consumer
    #[arg(long, value_name = "NAME")]
    consumer: Option<ConsumerName>,

    /// Only the lane of this ordering key, or of this aggregate (Type/id)
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

pub(crate) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let log = context.open().await?;
    let count = log.admin().identity().await?.lanes;
    let shown = options.key.map_or(LaneSet::all(count), |key| LaneSet::from_iter([count.lane_of(&key)]));
    let consumers = log.consumers(options.consumer.as_ref()).await?;
    let owners: Vec<Owner<'_>> = consumers.iter().flat_map(|consumer| owners(consumer, shown)).collect();
    if context.out.json {
        return owners.iter().try_for_each(|owner| context.out.value(&owner.value()));
    }
    if owners.is_empty() {
        return context.out.line(format!("no consumers; lanes {}", lanes(shown)));
    }
    let mut table = Table::new(&["CONSUMER", "OWNER", ">EPOCH", "LEASE", ">LANES", "WHICH"]);
    for owner in &owners {
        table.row(owner.cells());
    }
    context.out.line(table.to_text())
}

struct Owner<'c> {
    consumer: &'c ConsumerInfo,
    member: Option<&'c outbox_core::log::MemberInfo>,
    lanes: LaneSet,
}

fn owners(consumer: &ConsumerInfo, shown: LaneSet) -> Vec<Owner<'_>> {
    let members = consumer.members.iter().map(|member| Owner { consumer, member: Some(member), lanes: member.lanes });
    let nobody = Owner { consumer, member: None, lanes: consumer.free_lanes };
    let all_shown = shown.len() > 1;
    let shown = members.chain([nobody]).map(|owner| Owner { lanes: owner.lanes.intersection(shown), ..owner });
    // A member without lanes is worth a line when all lanes are looked at.
    shown.filter(|owner| !owner.lanes.is_empty() || (all_shown && owner.member.is_some())).collect()
}

impl Owner<'_> {
    fn cells(&self) -> [String; 6] {
        let dash = || "-".to_owned();
        [
            self.consumer.name.to_string(),
            self.member.map_or_else(|| "nobody".to_owned(), |member| member.member.0.to_string()),
            self.member.map_or_else(dash, |member| member.epoch.to_string()),
            self.member.map_or_else(dash, |member| {
                if member.live {
                    format!("ends {}", age(member.expires))
                } else {
                    format!("ended {}", age(member.expires))
                }
            }),
            self.lanes.len().to_string(),
            lanes(self.lanes),
        ]
    }

    fn value(&self) -> serde_json::Value {
        json!({
            "consumer": self.consumer.name.as_str(),
            "member": self.member.map(|member| member.member.0.to_string()),
            "epoch": self.member.map(|member| member.epoch),
            "expires": self.member.map(|member| member.expires),
            "live": self.member.map(|member| member.live),
            "lanes": self.lanes.iter().map(outbox_core::event::Lane::get).collect::<Vec<_>>(),
        })
    }
}
