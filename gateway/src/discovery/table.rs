//! Names and what they lead to. Pure: routes in, a table out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::error::{ApiError, ErrorKind};

/// Whether a model answers, and what to tell a client when it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It answers.
    Ready,
    /// It does not answer now.
    Unavailable {
        /// For the client, e.g. a condition's message: what is going on and what to do.
        message: String,
        /// When it is worth trying again.
        retry_after: Option<Duration>,
    },
}

/// One model that the gateway knows.
#[derive(Clone)]
pub struct Route {
    /// The LocalModel's name.
    pub name: String,
    /// Its namespace; `None` outside a cluster.
    pub namespace: Option<String>,
    /// Further names; a model's own name wins over another's alias.
    pub aliases: Vec<String>,
    /// When the model came into being, in seconds since 1970.
    pub created: i64,
    /// Whether it answers.
    pub availability: Availability,
    /// Where it answers; `None` while it has no address.
    pub backend: Option<Backend>,
    /// If it is loaded when a request comes: which one it is.
    pub on_demand: Option<OnDemand>,
}

/// A model that is loaded when a request comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnDemand {
    /// The LocalModel's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Whether waiting for it is of any use: not if its spec is refused or it fits on no node.
    pub can_come: bool,
}

/// A route inside a table.
pub(crate) struct Model {
    /// `namespace/name`, or `name` outside a cluster: unique, and the metrics' label.
    pub(crate) canonical: String,
    /// The shortest unambiguous name.
    pub(crate) id: String,
    pub(crate) route: Route,
}

impl Model {
    /// The runtime to ask.
    ///
    /// # Errors
    /// 503 with the model's own reason while it can't be asked.
    pub(crate) fn backend(&self) -> Result<&Backend, ApiError> {
        match (&self.route.availability, &self.route.backend) {
            (Availability::Ready, Some(backend)) => Ok(backend),
            (Availability::Ready, None) => Err(self.unavailable("it has no endpoint yet", None)),
            (Availability::Unavailable { message, retry_after }, _) => Err(self.unavailable(message, *retry_after)),
        }
    }

    /// Whether a request makes it come.
    pub(crate) fn is_activated(&self) -> bool {
        self.route.on_demand.as_ref().is_some_and(|on_demand| on_demand.can_come)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.backend().is_ok()
    }

    fn unavailable(&self, why: &str, retry_after: Option<Duration>) -> ApiError {
        ApiError::new(ErrorKind::ModelUnavailable, format!("the model '{}' is not ready: {why}", self.id))
            .retry_after(retry_after)
    }
}

/// Every name and the model behind it.
#[derive(Default)]
pub(crate) struct RouteTable {
    /// Whether the source has been read in full at least once.
    pub(crate) is_synced: bool,
    pub(crate) models: Vec<Arc<Model>>,
    names: HashMap<String, Target>,
}

enum Target {
    One(Arc<Model>),
    /// The canonical names of those who share it.
    Ambiguous(Vec<String>),
}

impl RouteTable {
    /// Builds the table. Full names go before plain names, those before aliases; a name that two models have on the
    /// same level belongs to neither.
    pub(crate) fn new(mut routes: Vec<Route>) -> Self {
        routes.sort_by(|a, b| (&a.name, &a.namespace).cmp(&(&b.name, &b.namespace)));
        let mut uses: HashMap<String, usize> = HashMap::new();
        for route in &routes {
            *uses.entry(route.name.clone()).or_default() += 1;
        }
        let models: Vec<Arc<Model>> = routes
            .into_iter()
            .map(|route| {
                let canonical = match &route.namespace {
                    Some(namespace) => format!("{namespace}/{}", route.name),
                    None => route.name.clone(),
                };
                let id = if uses[&route.name] == 1 { route.name.clone() } else { canonical.clone() };
                Arc::new(Model { canonical, id, route })
            })
            .collect();
        let mut names = HashMap::new();
        add_level(&mut names, &models, |model| vec![&model.canonical]);
        add_level(&mut names, &models, |model| vec![&model.route.name]);
        add_level(&mut names, &models, |model| model.route.aliases.iter().collect());
        Self { is_synced: true, models, names }
    }

    /// The model that a client means.
    ///
    /// # Errors
    /// 404 if there is none or more than one; 503 if the table is not complete yet.
    pub(crate) fn resolve(&self, name: &str) -> Result<Arc<Model>, ApiError> {
        let not_found =
            |message: String| Err(ApiError::new(ErrorKind::ModelNotFound, message).with_param("model".to_owned()));
        match self.names.get(name) {
            Some(Target::One(model)) => Ok(model.clone()),
            Some(Target::Ambiguous(who)) => {
                not_found(format!("the model name '{name}' is ambiguous; use one of: {}", who.join(", ")))
            }
            None if !self.is_synced => {
                Err(ApiError::new(ErrorKind::ModelUnavailable, "the list of models is still being read; try again"))
            }
            None => not_found(format!("the model '{}' does not exist; {}", shorten(name), self.known())),
        }
    }

    /// The aliases that lead to `model` and to nobody else.
    pub(crate) fn aliases<'a>(&'a self, model: &'a Arc<Model>) -> impl Iterator<Item = &'a str> {
        let leads_here = |alias: &&str| matches!(self.names.get(*alias), Some(Target::One(m)) if Arc::ptr_eq(m, model));
        model.route.aliases.iter().map(String::as_str).filter(leads_here).filter(|alias| *alias != model.id)
    }

    fn known(&self) -> String {
        let ready: Vec<&str> = self.models.iter().filter(|m| m.is_ready()).map(|m| m.id.as_str()).take(8).collect();
        if ready.is_empty() { "no model is ready".into() } else { format!("ready models: {}", ready.join(", ")) }
    }
}

fn add_level(
    names: &mut HashMap<String, Target>,
    models: &[Arc<Model>],
    of: impl for<'a> Fn(&'a Arc<Model>) -> Vec<&'a String>,
) {
    let mut level: HashMap<String, Target> = HashMap::new();
    for model in models {
        for name in of(model) {
            let target = match level.remove(name) {
                None => Target::One(model.clone()),
                Some(Target::One(other)) if Arc::ptr_eq(&other, model) => Target::One(other),
                Some(Target::One(other)) => Target::Ambiguous(vec![other.canonical.clone(), model.canonical.clone()]),
                Some(Target::Ambiguous(mut who)) => {
                    who.push(model.canonical.clone());
                    Target::Ambiguous(who)
                }
            };
            level.insert(name.clone(), target);
        }
    }
    for (name, target) in level {
        names.entry(name).or_insert(target);
    }
}

/// A client's name as it may be repeated in an error.
fn shorten(name: &str) -> String {
    name.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(namespace: &str, name: &str, aliases: &[&str]) -> Route {
        Route {
            name: name.into(),
            namespace: Some(namespace.into()),
            aliases: aliases.iter().map(|a| a.to_string()).collect(),
            created: 0,
            availability: Availability::Unavailable { message: "loading".into(), retry_after: None },
            backend: None,
            on_demand: None,
        }
    }

    fn resolved(table: &RouteTable, name: &str) -> String {
        table.resolve(name).map(|m| m.canonical.clone()).unwrap_or_else(|error| error.message)
    }

    #[test]
    fn a_unique_name_needs_no_namespace() {
        let table = RouteTable::new(vec![route("a", "llama", &["gpt-4"]), route("b", "qwen", &[])]);
        assert_eq!(resolved(&table, "llama"), "a/llama");
        assert_eq!(resolved(&table, "a/llama"), "a/llama");
        assert_eq!(resolved(&table, "gpt-4"), "a/llama");
        assert_eq!(table.models[0].id, "llama");
    }

    #[test]
    fn a_shared_name_leads_nowhere_and_says_why() {
        let table = RouteTable::new(vec![route("a", "llama", &[]), route("b", "llama", &[])]);
        assert_eq!(resolved(&table, "llama"), "the model name 'llama' is ambiguous; use one of: a/llama, b/llama");
        assert_eq!(resolved(&table, "b/llama"), "b/llama");
        assert_eq!(table.models[0].id, "a/llama");
    }

    #[test]
    fn an_alias_never_takes_a_name() {
        let table = RouteTable::new(vec![route("a", "llama", &[]), route("b", "evil", &["llama", "a/llama"])]);
        assert_eq!(resolved(&table, "llama"), "a/llama");
        assert_eq!(resolved(&table, "a/llama"), "a/llama");
        let evil = table.models.iter().find(|m| m.route.name == "evil").unwrap();
        assert_eq!(table.aliases(evil).count(), 0);
    }

    #[test]
    fn a_model_that_loads_is_unavailable_rather_than_unknown() {
        let table = RouteTable::new(vec![route("a", "llama", &[])]);
        let error = table.resolve("llama").unwrap().backend().err().unwrap();
        assert_eq!(error.kind, ErrorKind::ModelUnavailable);
        assert_eq!(error.message, "the model 'llama' is not ready: loading");
    }

    #[test]
    fn nothing_is_unknown_before_the_first_sync() {
        assert_eq!(RouteTable::default().resolve("x").err().unwrap().kind, ErrorKind::ModelUnavailable);
    }
}
