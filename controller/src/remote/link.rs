//! What is known about the link to the agent, for whoever shows it. Plain data: link state is not run state.

use serde::{Deserialize, Serialize};

/// The link to the agent as a reader sees it. Part of `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkView {
    /// The first connection is being made.
    #[default]
    Connecting,
    /// The agent answers.
    Up,
    /// Connected, but nothing has been heard for longer than a ping takes.
    Silent {
        /// Milliseconds since the last byte.
        since_ms: u64,
    },
    /// The connection is gone and is being made again. The run goes on meanwhile.
    Retrying {
        /// Number of the try that follows or is under way, from 1.
        attempt: u32,
        /// Milliseconds since the connection was lost.
        since_ms: u64,
        /// What the last try met with, such as `connection refused`.
        seen: String,
    },
    /// Nobody tries any more. The run may be going on.
    Lost {
        /// What the last try met with.
        seen: String,
    },
}
