//! Following a run, and keeping a bulk lane: the two long calls, taken up again after every cut.

use std::time::Duration;

use landfall_proto::{
    event::Event,
    order::RunId,
    report::RunState,
    stream::mux::{Broken, Mux},
    v1, wire,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    agent::Link,
    channel::Use,
    trouble::{self, LinkError, Meaning},
};

/// Frames under way to ssh; each is at most one chunk.
const LANE_QUEUE: usize = 4;
/// Making a lane: login, TLS, the agent's answer.
const LANE_WITHIN: Duration = Duration::from_secs(60);
/// Pauses before a lane is made again.
const LANE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// A bulk lane, as `Mux::lane` wants it. Dropping both ends closes it.
#[derive(Debug)]
pub struct Lane {
    /// Frames to the agent.
    pub out: mpsc::Sender<v1::Frame>,
    /// Frames from the agent.
    pub incoming: Streaming<v1::Frame>,
}

impl Link {
    /// Follows a run until `enough` holds or the run has ended; across lost connections, from the last event seen.
    ///
    /// `state` may hold what an earlier call saw. `tell` gets each heavy event once, and light ones as they come.
    pub async fn follow(
        &self,
        run: &RunId,
        state: &mut RunState,
        mut enough: impl FnMut(&RunState) -> bool,
        mut tell: impl FnMut(&Event),
    ) -> Result<(), LinkError> {
        // kept between calls, so that no line is told twice
        let mut light = self.light().await;
        loop {
            if state.end.is_some() || enough(state) {
                return Ok(());
            }
            let session = self.session().await?;
            light.of(session.hello.process);
            let request = v1::WatchRequest {
                run_id: run.to_string(),
                next: state.next,
                light: light.next,
            };
            let watched = async {
                let mut reports = session.client().watch(request).await?.into_inner();
                while let Some(report) = reports.message().await? {
                    self.answered();
                    light.next = report.light;
                    if let Err(error) = take(&report, state, &mut tell) {
                        return Ok(Some(error));
                    }
                    if state.end.is_some() || enough(state) {
                        return Ok(None);
                    }
                }
                Err(tonic::Status::unavailable("the agent ended the report"))
            };
            let error = match watched.await {
                Ok(None) => return Ok(()),
                Ok(Some(error)) => return Err(error),
                Err(status) => match trouble::meaning(&status) {
                    Meaning::Final(error) => return Err(error),
                    Meaning::Transport(words) => session.why(&words).await,
                },
            };
            self.broke(&session, error).await?;
        }
    }

    /// Opens a bulk lane: a connection of its own, which is not made again when it breaks.
    pub async fn lane(&self) -> Result<Lane, LinkError> {
        let open = async {
            let mut connection = self.dial(Use::Bulk).await?;
            let (out, frames) = mpsc::channel(LANE_QUEUE);
            match connection.client.lane(ReceiverStream::new(frames)).await {
                Ok(incoming) => Ok(Lane {
                    out,
                    incoming: incoming.into_inner(),
                }),
                Err(status) => Err(match trouble::meaning(&status) {
                    Meaning::Final(error) => error,
                    Meaning::Transport(words) => connection.why(&words).await,
                }),
            }
        };
        tokio::time::timeout(LANE_WITHIN, open)
            .await
            .unwrap_or(Err(LinkError::Late(LANE_WITHIN)))
    }

    /// Keeps one lane under the streams, making it again whenever it breaks.
    ///
    /// Returns only what waiting cannot mend, or once the link itself is given up. Ends when dropped.
    pub async fn keep_lane(&self, mux: &Mux) -> LinkError {
        let mut pause = LANE_PAUSE.0;
        loop {
            match self.lane().await {
                Ok(Lane { out, incoming }) => {
                    let began = tokio::time::Instant::now();
                    let Broken(_) = mux.lane(out, incoming).await;
                    if began.elapsed() > LANE_PAUSE.1 {
                        pause = LANE_PAUSE.0;
                    }
                }
                Err(LinkError::Lost { .. } | LinkError::Late(_) | LinkError::Gone(_)) => {
                    // how long to go on is for the control connection to say; it is looked at, because nobody may be
                    // calling who would notice that the agent is gone
                    if let Err(given_up) = self.confirm().await {
                        return given_up;
                    }
                }
                Err(error) => return error,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LANE_PAUSE.1);
        }
    }
}

fn take(
    report: &v1::Report,
    state: &mut RunState,
    tell: &mut impl FnMut(&Event),
) -> Result<(), LinkError> {
    if report.next < state.next {
        return Err(LinkError::Unreadable(format!(
            "it has told {} events before, and now knows {}",
            state.next, report.next
        )));
    }
    for event in wire::events_from_wire(report).map_err(|error| LinkError::unreadable(&error))? {
        let news = !event.kind.is_heavy() || event.index >= state.next;
        state
            .apply(&event)
            .map_err(|error| LinkError::unreadable(&error))?;
        if news {
            tell(&event);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use landfall_proto::event::Kind;

    use super::*;

    fn event(index: u64, step: Option<&str>, kind: Kind) -> Event {
        Event {
            index,
            light: None,
            at_ms: 0,
            step: step.map(str::to_owned),
            kind,
        }
    }

    fn story() -> Vec<Event> {
        vec![
            event(
                0,
                None,
                Kind::RunStarted {
                    steps: vec!["inspect".into()],
                },
            ),
            event(1, Some("inspect"), Kind::StepStarted { attempt: 1 }),
        ]
    }

    #[test]
    fn event_seen_twice_is_told_once() {
        let (mut state, mut told) = (RunState::default(), 0);
        for _ in 0..2 {
            let report = wire::report_to_wire(&story(), (2, 0));
            take(&report, &mut state, &mut |_| told += 1).unwrap();
        }
        assert_eq!((told, state.next), (2, 2));
    }

    #[test]
    fn agent_that_forgot_is_noticed() {
        let mut state = RunState::default();
        take(
            &wire::report_to_wire(&story(), (2, 0)),
            &mut state,
            &mut |_| {},
        )
        .unwrap();
        let shorter = wire::report_to_wire(&story()[..1], (1, 0));
        assert!(take(&shorter, &mut state, &mut |_| {}).is_err());
    }
}
