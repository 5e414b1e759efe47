//! Which models there are and where: a table of routes that is replaced as a whole whenever something changes.
//!
//! Two sources feed it: a list handed over in the process (`kindling up`), and the cluster's LocalModels.

mod cluster;
mod fixed;
mod leases;
mod table;

pub use cluster::Cluster;
pub use fixed::StaticRoutes;
pub(crate) use leases::Leases;
pub use table::{Availability, OnDemand, Route};
pub(crate) use table::{Model, RouteTable};

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Where the models are.
pub enum Discovery {
    /// A list that the owner of a [`StaticRoutes`] keeps current.
    Static(StaticRoutes),
    /// The LocalModels of a cluster.
    Cluster(Cluster),
}

/// The table as it is now, for as long as this value lives.
pub(crate) struct Routes {
    table: watch::Receiver<Arc<RouteTable>>,
    _feeder: AbortOnDropHandle<()>,
}

impl Routes {
    /// Starts following the source.
    pub(crate) fn follow(discovery: Discovery) -> Self {
        let (sender, table) = watch::channel(Arc::new(RouteTable::default()));
        let feeder = match discovery {
            Discovery::Static(routes) => {
                sender.send_replace(Arc::new(routes.table()));
                tokio::spawn(fixed::feed(routes, sender))
            }
            Discovery::Cluster(cluster) => tokio::spawn(cluster::feed(cluster, sender)),
        };
        Self { table, _feeder: AbortOnDropHandle::new(feeder) }
    }

    /// Follows every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<RouteTable>> {
        self.table.clone()
    }

    /// The newest table.
    pub(crate) fn table(&self) -> Arc<RouteTable> {
        self.table.borrow().clone()
    }
}
