//! The Service of a model: a stable address for its one pod.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kindling_api::{GRPC_PORT, GRPC_PORT_NAME, METRICS_PORT, METRICS_PORT_NAME};

use crate::validate::ValidatedModel;

/// The Service of a model.
pub fn service(model: &ValidatedModel) -> Service {
    Service {
        metadata: super::object_meta(model, model.name.clone()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(super::selector(model)),
            ports: Some(vec![
                port(GRPC_PORT_NAME, GRPC_PORT, Some("grpc")),
                port(METRICS_PORT_NAME, METRICS_PORT, Some("http")),
            ]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn port(name: &str, number: u16, app_protocol: Option<&str>) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        app_protocol: app_protocol.map(str::to_owned),
        ..ServicePort::default()
    }
}
