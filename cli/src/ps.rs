//! `kindling ps`: the models of a cluster, what each was predicted to take and takes, term by term, on which node.

mod table;

use clap::ValueEnum;
use kindling_api::{LocalModel, NodeEnvelope};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::cluster::{self, Found};

/// List the models of a cluster, with their memory as predicted and as measured
///
/// Reads the cluster of the current kubeconfig: every node that an agent measures, every LocalModel.
#[derive(clap::Args)]
pub struct Args {
    /// Only models of this namespace [default: all]
    #[arg(short, long)]
    namespace: Option<String>,
    /// How the answer is printed.
    #[arg(long, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs `kindling ps`.
#[expect(clippy::print_stdout, reason = "this is the program's output")]
pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = cluster::connect().await?;
    let found = cluster::read(&client, args.namespace.as_deref()).await?;
    match args.output {
        Output::Text => print!("{}", table::render(&found)),
        Output::Json => println!("{:#}", json(&found)),
    }
    Ok(())
}

/// What the ledgers say of a model: where it has memory, and how far it is.
fn held<'a>(found: &'a Found, model: &LocalModel) -> Option<(&'a NodeEnvelope, &'a kindling_api::Reservation)> {
    let uid = model.uid()?;
    let nodes = found.nodes.as_deref().unwrap_or_default();
    nodes.iter().find_map(|node| Some((node, node.spec.reservations.iter().find(|held| held.uid == uid)?)))
}

/// Its state in one word: of its memory, or why it has none.
fn state(found: &Found, model: &LocalModel) -> String {
    if let Some((_, held)) = held(found, model) {
        return format!("{:?}", held.state);
    }
    let ready = model.status.as_ref().and_then(|status| status.condition(kindling_api::ConditionType::Ready));
    ready.map_or_else(|| "Unseen".to_owned(), |ready| ready.reason.clone())
}

fn json(found: &Found) -> Value {
    let nodes = match &found.nodes {
        Ok(nodes) => json!(nodes.iter().map(node_json).collect::<Vec<_>>()),
        Err(_) => Value::Null,
    };
    let models = found.models.iter().map(|model| {
        let status = model.status.clone().unwrap_or_default();
        json!({
            "namespace": model.namespace(),
            "name": model.name_any(),
            "state": state(found, model),
            "node": held(found, model).map(|(node, _)| node.name_any()),
            "reservedBytes": held(found, model).map(|(_, held)| held.bytes),
            "contextLength": status.context_length,
            "envelope": status.envelope,
            "conditions": status.conditions,
        })
    });
    json!({ "nodes": nodes, "models": models.collect::<Vec<_>>() })
}

fn node_json(node: &NodeEnvelope) -> Value {
    let status = node.status.clone().unwrap_or_default();
    json!({
        "name": node.name_any(),
        "memory": status.memory,
        "measuredAt": status.measured_at,
        "pressure": status.pressure,
        "holders": status.holders,
        "reservedBytes": table::reserved(node).0,
    })
}
