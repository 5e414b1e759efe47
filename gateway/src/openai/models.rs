//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use futures::future;
use serde::Serialize;

use crate::body;
use crate::discovery::Model;
use crate::error::ApiError;
use crate::observe::Record;
use crate::router::App;

#[derive(Serialize)]
struct List {
    object: &'static str,
    data: Vec<Entry>,
}

/// OpenAI's four keys, and what agents look for: how long a context may be.
#[derive(Serialize, Clone)]
struct Entry {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: String,
    /// The model itself, where `id` is an alias.
    root: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_model_len: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u32>,
}

/// Every model that answers, now or once it was loaded for a request, under its name and its aliases.
pub async fn list(State(app): State<App>) -> Result<Response, ApiError> {
    let table = app.routes.table();
    let answering = table.models.iter().filter(|model| model.is_ready() || model.is_activated());
    let entries = future::join_all(answering.map(|model| async {
        let entry = entry(&app, model, &model.id).await;
        let aliases = table.aliases(model).map(|alias| Entry { id: alias.to_owned(), ..entry.clone() });
        let mut entries: Vec<Entry> = aliases.collect();
        entries.insert(0, entry);
        entries
    }));
    body::json(&List { object: "list", data: entries.await.concat() })
}

/// One model, by any of its names. The id may hold a slash, written plainly or as `%2F`.
pub async fn retrieve(
    State(app): State<App>,
    Extension(record): Extension<Arc<Record>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let model = app.routes.table().resolve(&id)?;
    record.set_model(&model);
    if !model.is_activated() {
        model.backend()?;
    }
    body::json(&entry(&app, &model, &id).await)
}

async fn entry(app: &App, model: &Model, id: &str) -> Entry {
    let context = match model.backend() {
        Ok(backend) => backend.max_model_len().await,
        Err(_) => None,
    };
    Entry {
        id: id.to_owned(),
        object: "model",
        created: if model.route.created > 0 { model.route.created } else { app.started },
        owned_by: model.route.namespace.clone().unwrap_or_else(|| "kindling".into()),
        root: model.id.clone(),
        max_model_len: context,
        context_length: context,
    }
}
