//! Routes that someone in this process hands over and keeps current: `kindling up`, tests.

use std::sync::Arc;

use tokio::sync::watch;

use super::table::{Route, RouteTable};
use crate::activation::UseWriter;

/// A list of routes; clones share it, and a change through one is seen by all.
#[derive(Clone)]
pub struct StaticRoutes {
    routes: watch::Sender<Vec<Route>>,
    use_writer: Option<Arc<dyn UseWriter>>,
}

impl StaticRoutes {
    /// A list to begin with; it may be empty.
    pub fn new(routes: Vec<Route>) -> Self {
        Self { routes: watch::Sender::new(routes), use_writer: None }
    }

    /// Tells `writer` when a model that is loaded on demand is in use.
    #[must_use]
    pub fn with_use_writer(self, writer: Arc<dyn UseWriter>) -> Self {
        Self { use_writer: Some(writer), ..self }
    }

    pub(crate) fn use_writer(&self) -> Option<Arc<dyn UseWriter>> {
        self.use_writer.clone()
    }

    /// Replaces the list.
    pub fn set(&self, routes: Vec<Route>) {
        self.routes.send_replace(routes);
    }

    /// Changes the list in place, e.g. one model's availability.
    pub fn update(&self, change: impl FnOnce(&mut Vec<Route>)) {
        self.routes.send_modify(change);
    }

    pub(super) fn table(&self) -> RouteTable {
        RouteTable::new(self.routes.borrow().clone())
    }
}

/// Turns every change of the list into a table.
pub(super) async fn feed(routes: StaticRoutes, tables: watch::Sender<Arc<RouteTable>>) {
    let mut changes = routes.routes.subscribe();
    changes.mark_changed();
    while changes.changed().await.is_ok() {
        let table = RouteTable::new(changes.borrow_and_update().clone());
        tables.send_replace(Arc::new(table));
    }
}
