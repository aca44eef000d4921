//! `landfall status HOST`: what is on record about a machine, and what its agent says, if it can be asked.

use std::{
    io::{self, Write},
    time::Duration,
};

use engine::{
    run::Run,
    step::{Context, Done, Repeat, Step},
};
use landfall_proto::{
    event::Event,
    failure::Failure,
    order::RunId,
    report::{End, RunState, Status, StepState},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{Errand, Find, Forgetful, Told, fold, nothing, trail};
use crate::{
    desk::Desk,
    exit::{Ended, Exit, printable},
    local::{clock::now, record::Record},
    remote::ssh::Ssh,
    request::Request,
    screen::{
        Screen, Style,
        text::{columns, size},
    },
};

/// Number of the form of the object.
const FORMAT: u32 = 1;

/// Says how far the run of a machine is. Takes nothing over, brings nothing there, and changes nothing.
///
/// `request` is what the run asks for, where that is known, else what this command asks for.
pub async fn status(request: Request) -> Exit {
    let host = request.target.host.clone();
    let (json, mode) = (request.output.json, request.disko_mode);
    // stdout has the answer, so events are for people
    let mut output = request.output;
    output.json = false;
    let screen = Screen::new(Style::choose(output), &host);
    let record = match Record::of(&request.on_record()) {
        Ok(record) => record,
        Err(failure) => return end(&screen, Ended::failed(failure, &screen.trail())),
    };
    let seen = match look(request, record.as_ref(), &screen).await {
        Told::Done(seen) => Ok(seen),
        Told::Failed(failure) => Err(failure),
        Told::Stopped => return end(&screen, Ended::interrupted(&screen.trail())),
    };
    let agent = seen.as_ref().ok().and_then(|seen| seen.agent.as_ref());
    if record.is_none() && agent.is_none() {
        let failure = match &seen {
            Err(failure) => failure.clone().under(format!("cannot tell about {host}")),
            Ok(_) => nothing(&host, "tell about"),
        };
        return end(&screen, Ended::failed(failure, &screen.trail()));
    }
    screen.close();
    let events = agent.map(|agent| &*agent.events);
    let state = trail(record.as_ref(), events, mode).state();
    let text = match json {
        true => object(&host, record.as_ref(), &seen, &state) + "\n",
        false => {
            let mut lines = lines(record.as_ref(), &seen);
            lines.push(format!("{host} {}", state.sentence()));
            printable(&lines.join("\n")) + "\n"
        }
    };
    let mut out = io::stdout();
    // nobody reads: the exit code says it too
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Exit::Done
}

fn end(screen: &Screen, ended: Ended) -> Exit {
    screen.end(&ended, None);
    ended.exit
}

/// What was seen of a machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Seen {
    installer: bool,
    boot_id: String,
    system: Option<String>,
    agent: Option<Agent>,
}

/// What an agent said.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Agent {
    run: String,
    events: Vec<Event>,
}

impl Agent {
    fn state(&self) -> RunState {
        let mut state = RunState::default();
        for event in &self.events {
            // what does not follow was refused when it came
            let _ = state.apply(event);
        }
        state
    }
}

async fn look(request: Request, record: Option<&Record>, screen: &Screen) -> Told<Seen> {
    let errand = match Errand::begin(request, "ask", record.map(Record::place), screen) {
        Ok(errand) => errand,
        Err(failure) => return Told::Failed(failure),
    };
    let look = async |run: &mut Run<Forgetful>, desk: &Desk, way: &OnceCell<Ssh>| {
        run.step(&Find { desk, way }).await?;
        run.step(&Ask { desk, way }).await
    };
    errand.run(look, screen).await
}

/// Asks the agent that serves there, if one does.
struct Ask<'a> {
    desk: &'a Desk,
    way: &'a OnceCell<Ssh>,
}

impl Step for Ask<'_> {
    const NAME: &'static str = "ask";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Seen;

    async fn run(&self, cx: &Context) -> Result<Done<Seen>, Failure> {
        cx.waiting("the agent to say how far it is");
        let way = self.way.get().expect("the machine was found before");
        let (machine, link) = self.desk.meet(way.clone(), Duration::ZERO).await?;
        let mut agent = None;
        if let Some(link) = link {
            let hello = link.hello().await?;
            if let Ok(run) = RunId::try_from(hello.run_id) {
                let mut events = Vec::new();
                let all = |state: &RunState| state.next >= hello.events;
                let tell = |event: &Event| events.push(event.clone());
                link.follow(&run, &mut RunState::default(), all, tell)
                    .await?;
                let run = run.to_string();
                agent = Some(Agent { run, events });
            }
        }
        Ok(Done::new(Seen {
            installer: machine.variant == "installer",
            boot_id: machine.boot_id,
            system: machine.system,
            agent,
        }))
    }

    async fn still_true(&self, _: &Seen) -> bool {
        false
    }
}

/// Says it to people.
fn lines(record: Option<&Record>, seen: &Result<Seen, Failure>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(record) = record {
        let stands = match (&record.open, record.folder.alone()) {
            (None, _) => "is over",
            (Some(_), Ok(Some(_))) => "is open, and was left to its agent",
            (Some(_), _) => "is open",
        };
        let began = minutes_since(record.began);
        lines.push(format!(
            "on record: run {} began {began} min ago and {stands}",
            record.run
        ));
        lines.extend(steps(&fold(record)));
    }
    match seen {
        Ok(Seen {
            agent: Some(agent), ..
        }) => {
            lines.push(format!("its agent: run {}", agent.run));
            lines.extend(steps(&agent.state()));
        }
        Ok(_) => lines.push("its agent: none works there".to_owned()),
        Err(failure) => lines.push(format!("its agent: {}", failure.in_one_line())),
    }
    lines
}

fn steps(state: &RunState) -> Vec<String> {
    let rows: Vec<_> = state
        .steps
        .iter()
        .map(|step| vec![step.name.clone(), words(step)])
        .collect();
    columns(&rows)
        .into_iter()
        .map(|row| format!("  {row}"))
        .collect()
}

fn words(step: &StepState) -> String {
    match (&step.status, &step.progress, &step.latest) {
        (Status::Waiting, ..) => "to come".to_owned(),
        (Status::Running, Some((done, Some(total), _)), _) if *total > 0 => {
            format!("under way: {} of {}", size(*done), size(*total))
        }
        (Status::Running, _, Some(latest)) => format!("under way: {latest}"),
        (Status::Running, ..) => "under way".to_owned(),
        (Status::Finished(_), ..) => "done".to_owned(),
        (Status::Failed(failure), ..) => format!("failed: {}", failure.what),
    }
}

fn minutes_since(began: u64) -> u64 {
    now().saturating_sub(began) / 60
}

/// Says it to programs: one object.
fn object(
    host: &str,
    record: Option<&Record>,
    seen: &Result<Seen, Failure>,
    state: &impl Serialize,
) -> String {
    let told = |state: &RunState| {
        let steps: Vec<Value> = state.steps.iter().map(step).collect();
        (steps, state.end.as_ref().map(ending))
    };
    let record = record.map(|record| {
        let (steps, end) = told(&fold(record));
        json!({
            "run": record.run.as_str(),
            "open": record.open.is_some(),
            "alone": matches!(record.folder.alone(), Ok(Some(_))),
            "began": record.began,
            "phases": steps,
            "end": end,
        })
    });
    let machine = match seen {
        Ok(seen) => json!({
            "reached": true,
            "installer": seen.installer,
            "boot_id": seen.boot_id,
            "system": seen.system,
        }),
        Err(failure) => json!({ "reached": false, "failure": failure }),
    };
    let agent = seen.as_ref().ok().and_then(|seen| seen.agent.as_ref());
    let agent = agent.map(|agent| {
        let (steps, end) = told(&agent.state());
        json!({ "run": agent.run, "steps": steps, "end": end })
    });
    json!({
        "format": FORMAT,
        "host": host,
        "record": record,
        "machine": machine,
        "agent": agent,
        "state": state,
    })
    .to_string()
}

fn step(step: &StepState) -> Value {
    let status = match &step.status {
        Status::Waiting => "waiting",
        Status::Running => "running",
        Status::Finished(_) => "finished",
        Status::Failed(_) => "failed",
    };
    let progress = step.progress.as_ref();
    let percent = progress.and_then(|(done, total, _)| {
        let total = total.filter(|total| *total > 0)?;
        Some(done.saturating_mul(100) / total)
    });
    json!({ "name": step.name, "status": status, "percent": percent })
}

fn ending(end: &End) -> &'static str {
    match end {
        End::Finished => "finished",
        End::Failed => "failed",
        End::Aborted(_) => "aborted",
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::event::Kind;

    use super::*;
    use crate::exit::MachineState;

    fn seen() -> Result<Seen, Failure> {
        let steps = vec!["inspect".to_owned(), "copy".to_owned()];
        let event = |index, step: Option<&str>, kind| Event {
            index,
            light: None,
            at_ms: 0,
            step: step.map(str::to_owned),
            kind,
        };
        let events = vec![
            event(0, None, Kind::RunStarted { steps }),
            event(1, Some("copy"), Kind::StepStarted { attempt: 1 }),
        ];
        Ok(Seen {
            installer: true,
            boot_id: "b".to_owned(),
            system: None,
            agent: Some(Agent {
                run: "07".repeat(16),
                events,
            }),
        })
    }

    #[test]
    fn people_are_told_each_step() {
        let expected = [
            format!("its agent: run {}", "07".repeat(16)),
            "  inspect  to come".to_owned(),
            "  copy     under way".to_owned(),
        ];
        assert_eq!(lines(None, &seen()), expected);
    }

    #[test]
    fn programs_are_told_in_one_object() {
        let text = object("h", None, &seen(), &MachineState::Erased);
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["state"], "erased");
        assert_eq!(object["agent"]["steps"][1]["status"], "running");
        assert_eq!(object["record"], Value::Null);
        let failure = Failure::new("cannot reach h").code("LF0101");
        let text = super::object("h", None, &Err(failure), &MachineState::Untouched);
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["machine"]["reached"], false);
        assert_eq!(object["machine"]["failure"]["code"], "LF0101");
    }
}
