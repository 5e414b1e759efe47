//! `kindling.v1.Admin`.

use kindling_proto::v1::admin_server::Admin;
use kindling_proto::v1::{AbortRequest, AbortResponse, DrainRequest, DrainResponse};
use tonic::{Request, Response, Status};

use crate::engine_loop::Command;
use crate::runtime::Runtime;

/// Answers for one runtime.
pub struct AdminService {
    runtime: Runtime,
}

impl AdminService {
    /// For this runtime.
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<AbortResponse>, Status> {
        let found = self.runtime.shared().admission.abort(&request.into_inner().request_id);
        let was_running = found.is_some_and(|id| self.runtime.commands().send(Command::Abort(id)).is_ok());
        Ok(Response::new(AbortResponse { was_running }))
    }

    async fn drain(&self, _request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        let shared = self.runtime.shared();
        shared.draining.cancel();
        shared.admission.empty().await;
        Ok(Response::new(DrainResponse {}))
    }
}
