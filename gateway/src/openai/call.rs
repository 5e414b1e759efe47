//! From an HTTP request to a running generation: the steps that chat and text completions have in common.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::Request;
use futures::FutureExt as _;
use kindling_proto::v1::GenerateRequest;
use kindling_proto::v1::generate_request::Input;
use serde::de::DeserializeOwned;

use super::object::Object;
use super::params::{Params, Valid};
use crate::body;
use crate::error::{ApiError, ErrorKind};
use crate::generate::{Generation, Job, Starter};
use crate::observe::{Record, new_id};
use crate::router::App;

/// A request that has been read.
pub struct Incoming<T> {
    pub params: Valid,
    pub own: T,
    pub record: Arc<Record>,
}

/// Reads the body twice from memory: for the shared parameters, and for the endpoint's own. serde's `flatten` would
/// do it once and lose field and position of every error.
pub async fn receive<T: DeserializeOwned>(app: &App, request: Request) -> Result<Incoming<T>, ApiError> {
    let record = request.extensions().get::<Arc<Record>>().cloned();
    let record = record.ok_or_else(|| ApiError::new(ErrorKind::Internal, "the request is not observed"))?;
    let body = body::read(request, app.max_body_bytes, app.timeouts.body_read).await?;
    let params = body::parse::<Object<Params>>(&body)?.0.validate()?;
    Ok(Incoming { params, own: body::parse::<Object<T>>(&body)?.0, record })
}

/// What every object and chunk of one answer repeats.
pub struct Head {
    pub id: String,
    pub created: i64,
    /// The name by which the client asked.
    pub model: String,
    pub include_usage: bool,
}

/// A generation under way.
pub struct Answer {
    pub head: Head,
    pub is_stream: bool,
    pub num_choices: u32,
    pub generation: Generation,
    pub record: Arc<Record>,
    pub stream_open: Duration,
    pub keepalive: Duration,
}

/// Finds the model and starts generating.
///
/// # Errors
/// If there is no such model, or it is not ready.
pub fn start(
    app: &App,
    incoming: Incoming<Vec<Input>>,
    id_prefix: &str,
    logprobs: Option<u32>,
) -> Result<Answer, ApiError> {
    let Incoming { params, own: inputs, record } = incoming;
    let Valid { model, is_stream, include_usage, n, sampling, stopping, form } = params;
    let (form_field, structured_output) = form.map(|form| (form.field, form.structured_output)).unzip();
    let found = app.routes.table().resolve(&model)?;
    record.set_model(&found);
    if !found.is_activated() {
        found.backend()?;
    }
    let start = starter(app, &model);
    let id = new_id(id_prefix);
    let request = |(idx, input)| GenerateRequest {
        request_id: if idx == 0 { id.clone() } else { format!("{id}-{idx}") },
        input: Some(input),
        sampling: Some(sampling.clone()),
        stopping: Some(stopping.clone()),
        n,
        logprobs,
        structured_output: structured_output.clone(),
        ..GenerateRequest::default()
    };
    let requests: Vec<_> = inputs.into_iter().enumerate().map(request).collect();
    tracing::debug!(request_id = record.request_id, id, model = found.canonical, "request goes to the runtime");
    let num_choices = requests.len() as u32 * n;
    let (deadline, closing) = (app.timeouts.request, app.closing.clone());
    let hold = found.is_activated().then_some(app.timeouts.hold);
    let job = Job { start, hold, requests, n, form_field, deadline, closing, record: record.clone() };
    Ok(Answer {
        head: Head { id, created: now(), model, include_usage: include_usage || app.force_include_usage },
        is_stream,
        num_choices,
        generation: Generation::start(job),
        record,
        stream_open: app.timeouts.stream_open,
        keepalive: app.timeouts.keepalive,
    })
}

/// Finds the model again and again, whenever it has to be found: one that is loaded for requests may have left meanwhile.
fn starter(app: &App, name: &str) -> Starter {
    let (routes, activation, name) = (Arc::clone(&app.routes), Arc::clone(&app.activation), name.to_owned());
    Box::new(move || {
        let (routes, activation, name) = (Arc::clone(&routes), Arc::clone(&activation), name.clone());
        async move {
            let in_use = activation.begin(&*routes.table().resolve(&name)?);
            Ok((activation.backend(&routes, &name, in_use.as_ref()).await?, in_use))
        }
        .boxed()
    })
}

/// `system_fingerprint`: which software answered.
pub const FINGERPRINT: &str = concat!("kindling-", env!("CARGO_PKG_VERSION"));

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs() as i64)
}
