//! What a gateway can be told. One definition; the command line converts its flags into this.

use std::net::SocketAddr;
use std::time::Duration;

use crate::discovery::Discovery;

/// Everything that `kindling gateway` and `kindling up` decide about a gateway.
pub struct Config {
    /// Where the models are.
    pub discovery: Discovery,
    /// Where `/metrics` is served; `None` serves it beside the API.
    pub metrics_listen: Option<SocketAddr>,
    /// Sends usage in every stream, for clients that show token counts and forget to ask for them.
    pub force_include_usage: bool,
    /// Largest request body, in bytes; a larger one is answered with 413.
    pub max_body_bytes: usize,
    /// Requests that are held for one model while it is loaded; more are answered with 503.
    pub max_held: usize,
    /// How long the gateway waits for whom.
    pub timeouts: Timeouts,
}

impl Config {
    /// The defaults, with models from `discovery`.
    pub fn new(discovery: Discovery) -> Self {
        Self {
            discovery,
            metrics_listen: None,
            force_include_usage: false,
            max_body_bytes: 32 << 20,
            max_held: 64,
            timeouts: Timeouts::default(),
        }
    }
}

/// Deadlines. Generating is slow by nature, so the one for whole requests is generous.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a client to send its request head, also the next one on a connection kept open; afterwards it is closed.
    pub header_read: Duration,
    /// For a client to send its body.
    pub body_read: Duration,
    /// For a client to take something of its answer; one that reads nothing for so long has hung up.
    pub write_stall: Duration,
    /// For one request from its body to its last byte.
    pub request: Duration,
    /// How long a request waits for its model to be loaded; then it is answered with 503 and `retry-after`. A stream is
    /// open meanwhile and gets comment lines.
    pub hold: Duration,
    /// How long a streaming answer waits for the runtime's first word, to tell refusals by status code.
    /// Afterwards the stream opens and a refusal becomes an event in it.
    pub stream_open: Duration,
    /// Silence in a stream after which a comment line keeps proxies and clients from hanging up.
    pub keepalive: Duration,
    /// How long running requests may go on after the shutdown was asked for; then they end with an error. By default
    /// well within the 30 seconds after which Kubernetes kills.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(75),
            body_read: Duration::from_secs(60),
            write_stall: Duration::from_secs(60),
            request: Duration::from_secs(3600),
            hold: Duration::from_secs(300),
            stream_open: Duration::from_secs(5),
            keepalive: Duration::from_secs(10),
            drain: Duration::from_secs(20),
        }
    }
}
