//! Reconciles LocalModels into pods.
