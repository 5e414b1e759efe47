//! Which layers see a window of positions only.

use serde::Deserialize;

use super::between;
use crate::architecture::SpecError;

/// An entry of `layer_types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerType {
    /// All positions up to its own.
    FullAttention,
    /// The last `sliding_window` positions.
    SlidingAttention,
}

/// The window of each layer.
///
/// # Errors
/// [`SpecError::OutOfRange`] if the list is not as long as the model is deep, or the window is not given or 0.
pub(crate) fn windows(
    layer_types: &[LayerType],
    num_hidden_layers: usize,
    sliding_window: Option<usize>,
) -> Result<Vec<Option<usize>>, SpecError> {
    if layer_types.len() != num_hidden_layers {
        let expected = format!("there are {num_hidden_layers} layers");
        return Err(SpecError::out_of_range("the length of layer_types", layer_types.len(), expected));
    }
    let window = |layer_type: &LayerType| match layer_type {
        LayerType::FullAttention => Ok(None),
        LayerType::SlidingAttention => {
            let window = sliding_window.unwrap_or(0);
            between("sliding_window", window, usize::MAX).map(|()| Some(window))
        }
    };
    layer_types.iter().map(window).collect()
}

/// Keys of the qwen families, verbatim.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct QwenWindow {
    /// Whether any layer has a window.
    #[serde(default)]
    pub use_sliding_window: bool,
    /// In tokens; the family's default is 4096.
    pub sliding_window: Option<usize>,
    /// Layers before this one see everything; the family's default is 28.
    pub max_window_layers: Option<usize>,
    /// Says it layer by layer, in files since transformers 5.
    pub layer_types: Option<Vec<LayerType>>,
}

impl QwenWindow {
    /// The window of each layer.
    ///
    /// # Errors
    /// As [`windows`].
    pub(crate) fn windows(&self, num_hidden_layers: usize) -> Result<Vec<Option<usize>>, SpecError> {
        let sliding_window = self.use_sliding_window.then(|| self.sliding_window.unwrap_or(4096));
        let by_depth = |index| match sliding_window {
            Some(_) if index >= self.max_window_layers.unwrap_or(28) => LayerType::SlidingAttention,
            _ => LayerType::FullAttention,
        };
        let layer_types = self.layer_types.clone().unwrap_or_else(|| (0..num_hidden_layers).map(by_depth).collect());
        windows(&layer_types, num_hidden_layers, sliding_window)
    }
}
