//! The backend of a scripted engine: checks steps as any backend does, and computes nothing.

use kindling_kernels::{
    Backend, ExecuteError, Limits, LoadProgress, MemoryUse, Plan, PrepareError, PreparedModel, Step, WeightSource,
};

/// Gives zeroes for logits; [`super::Player`] puts the script's tokens in.
#[derive(Debug, Clone, Copy)]
pub struct ScriptBackend;

struct NoModel {
    plan: Plan,
    limits: Limits,
}

impl Backend for ScriptBackend {
    fn name(&self) -> &'static str {
        "script"
    }

    fn kernels(&self) -> Vec<String> {
        vec!["none: tokens come from a script".to_owned()]
    }

    fn prepare(
        &self,
        plan: &Plan,
        _weights: &dyn WeightSource,
        limits: &Limits,
        _progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn PreparedModel>, PrepareError> {
        Ok(Box::new(NoModel { plan: plan.clone(), limits: limits.clone() }))
    }

    fn predict(&self, _: &Plan, _: &dyn WeightSource, _: &Limits) -> Result<MemoryUse, PrepareError> {
        Ok(MemoryUse::default())
    }
}

impl PreparedModel for NoModel {
    fn execute(&mut self, step: &Step, logits: &mut Vec<f32>) -> Result<(), ExecuteError> {
        step.validate(&self.plan, &self.limits)?;
        logits.clear();
        logits.resize(step.logit_indices.len() * self.plan.vocab_size, 0.0);
        Ok(())
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }
}
