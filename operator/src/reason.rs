//! The reasons of conditions: what is written, and whether it is a failure.

/// Why a condition has its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words are chosen to need no explanation; messages say what to do")]
pub enum Reason {
    // the spec
    Accepted,
    InvalidName,
    InvalidSource,
    HostPathNotAllowed,
    DeviceNotSupported,
    NameTaken,
    SourceNotFound,
    SourceUnreachable,
    NotRunnable,
    // the cluster
    ClusterUnreachable,
    ApplyFailed,
    // the pod
    ScaledToZero,
    ReplacingPod,
    RestartBackoff,
    PodPending,
    Unschedulable,
    ImagePullFailed,
    ContainerConfigInvalid,
    // the memory
    Reserved,
    Overridden,
    FactsUnknown,
    NoAgent,
    DoesNotFit,
    ChangeDoesNotFit,
    WaitingForMemory,
    WaitingForRelease,
    SwapDeferred,
    NoUsableNode,
    NoNode,
    OneCopyPerNode,
    NodeLost,
    Idle,
    Suspended,
    // the weights
    Waiting,
    Downloading,
    DownloadFailed,
    Downloaded,
    OnNode,
    // the runtime
    Starting,
    WaitingForGrant,
    Loading,
    CrashLoop,
    Loaded,
    Draining,
    AwaitingReadiness,
    Serving,
}

impl Reason {
    /// The CamelCase word in a condition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::InvalidName => "InvalidName",
            Self::InvalidSource => "InvalidSource",
            Self::HostPathNotAllowed => "HostPathNotAllowed",
            Self::DeviceNotSupported => "DeviceNotSupported",
            Self::NameTaken => "NameTaken",
            Self::SourceNotFound => "SourceNotFound",
            Self::SourceUnreachable => "SourceUnreachable",
            Self::NotRunnable => "NotRunnable",
            Self::ClusterUnreachable => "ClusterUnreachable",
            Self::ApplyFailed => "ApplyFailed",
            Self::ScaledToZero => "ScaledToZero",
            Self::ReplacingPod => "ReplacingPod",
            Self::RestartBackoff => "RestartBackoff",
            Self::PodPending => "PodPending",
            Self::Unschedulable => "Unschedulable",
            Self::ImagePullFailed => "ImagePullFailed",
            Self::ContainerConfigInvalid => "ContainerConfigInvalid",
            Self::Reserved => "Reserved",
            Self::Overridden => "Overridden",
            Self::FactsUnknown => "FactsUnknown",
            Self::NoAgent => "NoAgent",
            Self::DoesNotFit => "DoesNotFit",
            Self::ChangeDoesNotFit => "ChangeDoesNotFit",
            Self::WaitingForMemory => "WaitingForMemory",
            Self::WaitingForRelease => "WaitingForRelease",
            Self::SwapDeferred => "SwapDeferred",
            Self::NoUsableNode => "NoUsableNode",
            Self::NoNode => "NoNode",
            Self::OneCopyPerNode => "OneCopyPerNode",
            Self::NodeLost => "NodeLost",
            Self::Idle => "Idle",
            Self::Suspended => "Suspended",
            Self::Waiting => "Waiting",
            Self::Downloading => "Downloading",
            Self::DownloadFailed => "DownloadFailed",
            Self::Downloaded => "Downloaded",
            Self::OnNode => "OnNode",
            Self::Starting => "Starting",
            Self::WaitingForGrant => "WaitingForGrant",
            Self::Loading => "Loading",
            Self::CrashLoop => "CrashLoop",
            Self::Loaded => "Loaded",
            Self::Draining => "Draining",
            Self::AwaitingReadiness => "AwaitingReadiness",
            Self::Serving => "Serving",
        }
    }

    /// Whether a person should look at it: its event is then a warning.
    pub fn is_failure(reason: &str) -> bool {
        const FAILURES: &[Reason] = &[
            Reason::InvalidName,
            Reason::InvalidSource,
            Reason::HostPathNotAllowed,
            Reason::DeviceNotSupported,
            Reason::NameTaken,
            Reason::ClusterUnreachable,
            Reason::ApplyFailed,
            Reason::RestartBackoff,
            Reason::Unschedulable,
            Reason::ImagePullFailed,
            Reason::ContainerConfigInvalid,
            Reason::DownloadFailed,
            Reason::SourceNotFound,
            Reason::SourceUnreachable,
            Reason::NotRunnable,
            Reason::DoesNotFit,
            Reason::ChangeDoesNotFit,
            Reason::NoNode,
            Reason::OneCopyPerNode,
            Reason::NodeLost,
            Reason::NoAgent,
            Reason::CrashLoop,
        ];
        FAILURES.iter().any(|failure| failure.as_str() == reason)
    }
}
