//! gRPC in, domain out: translates and delegates, decides nothing.

use std::{pin::Pin, sync::Arc, time::Duration};

use landfall_proto::{
    failure::Failure,
    order::{Input, RunId},
    v1::{self, agent_server::Agent},
    version, wire,
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    fence::Refusal,
    session::{Known, Session},
};

/// A reader gets light events at most this often.
const PACE: Duration = Duration::from_millis(200);
/// Frames under way to a lane; each is at most one chunk.
const LANE_QUEUE: usize = 4;

/// The service over one session.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) session: Arc<Session>,
}

type Reply<T> = Result<Response<T>, Status>;
type Reports = Pin<Box<dyn Stream<Item = Result<v1::Report, Status>> + Send>>;
type Pieces = Pin<Box<dyn Stream<Item = Result<v1::Piece, Status>> + Send>>;
type Frames = Pin<Box<dyn Stream<Item = Result<v1::Frame, Status>> + Send>>;

#[tonic::async_trait]
impl Agent for Service {
    async fn hello(&self, request: Request<v1::HelloRequest>) -> Reply<v1::HelloReply> {
        let hello = request.into_inner();
        let Some(protocol) = version::agree(hello.protocol_min, hello.protocol_max) else {
            return Err(Status::failed_precondition(format!(
                "the agent speaks protocol {} to {}, the controller {} to {}",
                version::PROTOCOL_MIN,
                version::PROTOCOL_MAX,
                hello.protocol_min,
                hello.protocol_max
            )));
        };
        let fence = self.session.fence();
        let greeted = fence.greet(hello.controller, hello.only_looks);
        if greeted.map_err(fenced_off)? {
            let taken_back = self.session.take_back();
            taken_back.map_err(|failure| refused(&failure))?;
        }
        let here = self.session.here();
        Ok(Response::new(v1::HelloReply {
            protocol,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: here.build.clone(),
            boot_id: here.boot_id.clone(),
            installer: here.installer,
            kexec_marker: here.kexec_marker.clone(),
            run_id: self.session.run_id().map(String::from).unwrap_or_default(),
            events: self.session.board().map_or(0, |board| board.state().next),
            process: here.process,
            return_after: self.session.returns_after(),
        }))
    }

    async fn inspect(&self, request: Request<v1::InspectRequest>) -> Reply<v1::InspectReply> {
        self.looks(&request)?;
        let facts = self.session.inspect().await;
        Ok(Response::new(v1::InspectReply {
            facts: wire::facts_to_wire(&facts),
        }))
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Reply<v1::StartReply> {
        self.acts(&request)?;
        let start = request.into_inner();
        let order = wire::order_from_wire(&start.order)
            .map_err(|error| Status::invalid_argument(whole(&error)))?;
        if order.run.as_str() != start.run_id {
            return Err(Status::invalid_argument("the order is of another run"));
        }
        let known = self
            .session
            .start(order)
            .map_err(|failure| refused(&failure))?;
        let (outcome, run_id) = match known {
            Known::Started => (v1::start_reply::Outcome::Started, start.run_id),
            Known::AlreadyThere => (v1::start_reply::Outcome::AlreadyThere, start.run_id),
            Known::Other(run) => (v1::start_reply::Outcome::OtherRun, run.into()),
        };
        Ok(Response::new(v1::StartReply {
            outcome: outcome.into(),
            run_id,
        }))
    }

    type WatchStream = Reports;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Reply<Reports> {
        let reign = self.looks(&request)?;
        let watch = request.into_inner();
        self.check(&watch.run_id)?;
        let board = self.session.board().ok_or_else(unknown_run)?;
        let (reports, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut cursor = (watch.next, watch.light);
            let mut changes = board.changes();
            loop {
                let (events, next) = board.report_since(cursor.0, cursor.1);
                let heavy = next.0 > cursor.0;
                cursor = next;
                if !events.is_empty() {
                    let report = wire::report_to_wire(&events, cursor);
                    if reports.send(Ok(report)).await.is_err() {
                        return;
                    }
                }
                if !heavy {
                    tokio::time::sleep(PACE).await;
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = reports.closed() => return,
                    () = reign.cancelled() => {
                        let _ = reports.send(Err(fenced_off(Refusal::Superseded))).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn supply(&self, request: Request<v1::SupplyRequest>) -> Reply<v1::SupplyReply> {
        self.acts(&request)?;
        let supply = request.into_inner();
        self.check(&supply.run_id)?;
        let input = Input::from_name(&supply.input)
            .ok_or_else(|| Status::invalid_argument("no step waits for such an input"))?;
        let supplied = self.session.supply(input);
        supplied.map_err(|failure| refused(&failure))?;
        Ok(Response::new(v1::SupplyReply {}))
    }

    async fn entrust(&self, request: Request<v1::EntrustRequest>) -> Reply<v1::EntrustReply> {
        self.acts(&request)?;
        let mut entrust = request.into_inner();
        let key = wire::key_from_wire(&mut entrust);
        let (path, content) = key.map_err(|error| Status::invalid_argument(whole(&error)))?;
        self.check(&entrust.run_id)?;
        let kept = self.session.entrust(path, content).await;
        kept.map_err(|failure| refused(&failure))?;
        Ok(Response::new(v1::EntrustReply {}))
    }

    async fn describe(&self, request: Request<v1::DescribeRequest>) -> Reply<v1::DescribeReply> {
        self.acts(&request)?;
        let (describer, program) = wire::describer_from_wire(request.get_ref())
            .map_err(|error| Status::invalid_argument(whole(&error)))?;
        let described = self.session.describe(describer, program).await;
        let (output, complaints) = described.map_err(|failure| refused(&failure))?;
        Ok(Response::new(v1::DescribeReply { output, complaints }))
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> Reply<v1::AbortReply> {
        self.acts(&request)?;
        let abort = request.into_inner();
        self.check(&abort.run_id)?;
        let spared = self.session.abort_unless(&abort.spares).unwrap_or_default();
        Ok(Response::new(v1::AbortReply { spared }))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Reply<v1::ReleaseReply> {
        self.acts(&request)?;
        let release = request.into_inner();
        if release.run_id.is_empty() && self.session.run_id().is_none() {
            self.session.leave();
            return Ok(Response::new(v1::ReleaseReply { released: true }));
        }
        self.check(&release.run_id)?;
        let released = match release.ahead {
            true => {
                let let_go = self.session.let_go();
                let_go.map_err(|failure| refused(&failure))?
            }
            false => self.session.release(release.next),
        };
        Ok(Response::new(v1::ReleaseReply { released }))
    }

    type GatherStream = Pieces;

    async fn gather(&self, request: Request<v1::GatherRequest>) -> Reply<Pieces> {
        self.looks(&request)?;
        let (pieces, stream) = mpsc::channel(1);
        let session = Arc::clone(&self.session);
        tokio::spawn(async move { session.gather(pieces).await });
        let pieces = ReceiverStream::new(stream).map(|piece| Ok(wire::piece_to_wire(piece)));
        Ok(Response::new(Box::pin(pieces)))
    }

    type LaneStream = Frames;

    async fn lane(&self, request: Request<Streaming<v1::Frame>>) -> Reply<Frames> {
        let reign = self.acts(&request)?;
        let incoming = request.into_inner();
        let (frames, stream) = mpsc::channel(LANE_QUEUE);
        let (mux, newer) = (self.session.mux(), self.session.new_lane(&reign));
        tokio::spawn(async move {
            tokio::select! {
                _ = mux.lane(frames, incoming) => {}
                () = newer.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream).map(Ok))))
    }
}

impl Service {
    /// Refuses calls of everybody but the controller that drives. What is returned ends when that is another one.
    fn acts<T>(&self, request: &Request<T>) -> Result<CancellationToken, Status> {
        self.session
            .fence()
            .acts(caller(request)?)
            .map_err(fenced_off)
    }

    /// Refuses calls of controllers that were superseded. What is returned ends when the caller is.
    fn looks<T>(&self, request: &Request<T>) -> Result<CancellationToken, Status> {
        self.session
            .fence()
            .looks(caller(request)?)
            .map_err(fenced_off)
    }

    /// Refuses calls about a run that is not known here, so that nobody goes on asking.
    fn check(&self, run_id: &str) -> Result<(), Status> {
        let known = self.session.run_id();
        let same = known.as_ref().map(RunId::as_str) == Some(run_id);
        if same { Ok(()) } else { Err(unknown_run()) }
    }
}

fn unknown_run() -> Status {
    Status::not_found("no such run here")
}

/// Reads who calls.
fn caller<T>(request: &Request<T>) -> Result<u64, Status> {
    let number = request.metadata().get(wire::CONTROLLER);
    number
        .and_then(|number| number.to_str().ok()?.parse().ok())
        .ok_or_else(|| Status::invalid_argument("the call does not say whose it is"))
}

fn fenced_off(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Superseded => Status::aborted("a newer controller has taken over"),
        // a lane may be made before this agent, which was started anew, has heard Hello
        Refusal::Unannounced => Status::unauthenticated("the caller has not said that it drives"),
    }
}

/// Ends a call with a failure: whole for our own controller, its headline for everybody else.
fn refused(failure: &Failure) -> Status {
    match wire::failure_to_wire(failure) {
        Some(whole) => Status::with_details(Code::FailedPrecondition, &failure.what, whole.into()),
        None => Status::failed_precondition(&failure.what),
    }
}

/// Joins an error and its sources, for the one line a status has.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use landfall_proto::order::Describer;

    use super::*;
    use crate::{
        departure::Callers,
        machine::{command::Ended, stage::Stage},
        session::tests::order,
    };

    const OURS: u64 = 1;
    const THEIRS: u64 = 2;

    /// A service whose run waits for one key.
    fn service(stage: &Stage) -> Service {
        let session = Session::open(stage.machine(), Callers::new()).unwrap();
        let order = order(&["/tmp/secret.key"]);
        session.fence().greet(OURS, false).unwrap();
        session.start(order).unwrap();
        Service { session }
    }

    /// A call of this controller.
    fn call<T>(controller: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let number = controller.to_string().parse().unwrap();
        request.metadata_mut().insert(wire::CONTROLLER, number);
        request
    }

    async fn entrust(service: &Service, run: &str, path: &str, size: usize) -> Result<(), Code> {
        let request = v1::EntrustRequest {
            run_id: run.to_owned(),
            path: path.to_owned(),
            content: vec![7; size],
        };
        let answer = service.entrust(call(OURS, request)).await;
        answer.map(drop).map_err(|status| status.code())
    }

    #[tokio::test]
    async fn keys_are_taken_within_their_bounds() {
        let stage = Stage::new();
        let service = service(&stage);
        let run = "07".repeat(16);
        let check = async |run: &str, path: &str, size| entrust(&service, run, path, size).await;
        let (path, most) = ("/tmp/secret.key", wire::KEY_MAX);
        assert_eq!(check(&run, path, most).await, Ok(()));
        assert_eq!(check(&run, path, 0).await, Ok(()));
        assert_eq!(
            check(&run, path, most + 1).await,
            Err(Code::InvalidArgument)
        );
        assert_eq!(
            check(&run, "tmp/../key", 1).await,
            Err(Code::InvalidArgument)
        );
        assert_eq!(
            check(&run, "/tmp/other.key", 1).await,
            Err(Code::FailedPrecondition)
        );
        assert_eq!(check(&"08".repeat(16), path, 1).await, Err(Code::NotFound));
        assert_eq!(stage.read("tmp/secret.key"), "");
    }

    #[tokio::test]
    async fn gathering_begins_with_what_the_run_has_told_and_holds_no_key() {
        let stage = Stage::new();
        let service = service(&stage);
        let key = "correct horse battery staple";
        let request = v1::EntrustRequest {
            run_id: "07".repeat(16),
            path: "/tmp/secret.key".to_owned(),
            content: key.as_bytes().to_vec(),
        };
        service.entrust(call(OURS, request)).await.unwrap();
        let pieces = service.gather(call(OURS, v1::GatherRequest {})).await;
        let pieces: Vec<_> = pieces.unwrap().into_inner().collect().await;
        let pieces = pieces
            .into_iter()
            .map(|piece| wire::piece_from_wire(piece.unwrap()).unwrap());
        let pieces: Vec<_> = pieces.collect();
        let names: Vec<_> = pieces.iter().take(2).map(|piece| &*piece.name).collect();
        assert_eq!(
            names,
            ["agent/events.jsonl", "agent/journal-install-07070707.jsonl"]
        );
        let told = String::from_utf8_lossy(&pieces[0].content);
        assert!(told.contains("run_started"), "{told}");
        for piece in &pieces {
            assert!(
                !String::from_utf8_lossy(&piece.content).contains(key),
                "{}",
                piece.name
            );
        }
    }

    #[tokio::test]
    async fn hardware_is_described_or_it_is_said_why_not() {
        let line = "/usr/bin/nixos-facter";
        let stage = Stage::new()
            .file(&line[1..], "")
            .answer(line, Ended::answer(0, "{}", "a warning"));
        let service = service(&stage);
        let describe = async |describer| {
            let request = wire::describer_to_wire(describer, None);
            let answer = service.describe(call(OURS, request)).await;
            answer.map(Response::into_inner)
        };
        let reply = describe(Describer::Facter).await.unwrap();
        assert_eq!(
            (reply.output, reply.complaints.as_str()),
            (b"{}".to_vec(), "a warning")
        );
        let status = describe(Describer::GenerateConfig).await.unwrap_err();
        let failure = wire::failure_from_wire(status.details()).unwrap();
        assert_eq!(failure.code, "LF1321");
        let request = v1::DescribeRequest {
            backend: "sh".to_owned(),
            program: String::new(),
        };
        let status = service.describe(call(OURS, request)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }

    async fn hello(service: &Service, controller: u64, only_looks: bool) -> Result<(), Code> {
        let request = v1::HelloRequest {
            protocol_min: version::PROTOCOL_MIN,
            protocol_max: version::PROTOCOL_MAX,
            version: String::new(),
            controller,
            only_looks,
        };
        let answer = service.hello(Request::new(request)).await;
        answer.map(drop).map_err(|status| status.code())
    }

    /// The answers to every call that acts but Lane, which has the same gate, and to those that look.
    async fn answers(service: &Service, controller: u64) -> [Vec<Option<Code>>; 2] {
        fn code<T>(answer: Reply<T>) -> Option<Code> {
            answer.err().map(|status| status.code())
        }
        let run_id = "07".repeat(16);
        let start = v1::StartRequest {
            run_id: run_id.clone(),
            order: b"{}".to_vec(),
        };
        let supply = v1::SupplyRequest {
            run_id: run_id.clone(),
            input: "keys".to_owned(),
        };
        let entrust = v1::EntrustRequest {
            run_id: run_id.clone(),
            path: "/tmp/secret.key".to_owned(),
            content: vec![7],
        };
        let describe = v1::DescribeRequest {
            backend: "sh".to_owned(),
            program: String::new(),
        };
        let release = v1::ReleaseRequest {
            run_id: run_id.clone(),
            next: 0,
            ahead: false,
        };
        let abort = v1::AbortRequest {
            run_id: run_id.clone(),
            by: "a test".to_owned(),
            spares: Vec::new(),
        };
        let watch = v1::WatchRequest {
            run_id,
            next: 0,
            light: 0,
        };
        let acts = vec![
            code(service.start(call(controller, start)).await),
            code(service.entrust(call(controller, entrust)).await),
            code(service.describe(call(controller, describe)).await),
            code(service.release(call(controller, release)).await),
            code(service.supply(call(controller, supply)).await),
            code(service.abort(call(controller, abort)).await),
        ];
        let looks = vec![
            code(
                service
                    .inspect(call(controller, v1::InspectRequest {}))
                    .await,
            ),
            code(service.watch(call(controller, watch)).await),
        ];
        [acts, looks]
    }

    #[tokio::test]
    async fn superseded_controller_can_do_nothing_and_does_not_come_back() {
        let stage = Stage::new();
        let service = service(&stage);
        hello(&service, THEIRS, false).await.unwrap();
        for _ in 0..2 {
            for answers in answers(&service, OURS).await {
                assert!(answers.iter().all(|code| *code == Some(Code::Aborted)));
            }
            assert_eq!(hello(&service, OURS, false).await, Err(Code::Aborted));
            assert_eq!(hello(&service, OURS, true).await, Err(Code::Aborted));
        }
        assert!(service.session.board().unwrap().state().end.is_none());
        let [acts, looks] = answers(&service, THEIRS).await;
        // the order and the describer of this test are none
        let none = Some(Code::InvalidArgument);
        assert_eq!(acts, [none, None, none, None, None, None]);
        assert_eq!(looks, [None, None]);
    }

    #[tokio::test]
    async fn observer_may_look_and_nothing_else() {
        let stage = Stage::new();
        let service = service(&stage);
        hello(&service, THEIRS, true).await.unwrap();
        let [acts, looks] = answers(&service, THEIRS).await;
        assert!(acts.iter().all(|code| *code == Some(Code::Unauthenticated)));
        assert_eq!(looks, [None, None]);
        assert_eq!(stage.files_with(&[7]), Vec::<String>::new());
        hello(&service, OURS, false).await.unwrap();
        let [acts, _] = answers(&service, OURS).await;
        assert!(!acts.contains(&Some(Code::Aborted)));
    }

    #[tokio::test]
    async fn call_that_does_not_say_whose_it_is_is_refused() {
        let stage = Stage::new();
        let service = service(&stage);
        let status = service.inspect(Request::new(v1::InspectRequest {})).await;
        assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
    }

    #[tokio::test]
    async fn watch_ends_with_the_reign_of_its_controller() {
        let stage = Stage::new();
        let service = service(&stage);
        let watch = |controller| {
            let watch = v1::WatchRequest {
                run_id: "07".repeat(16),
                next: 0,
                light: 0,
            };
            service.watch(call(controller, watch))
        };
        let mut ours = watch(OURS).await.unwrap().into_inner();
        hello(&service, THEIRS, true).await.unwrap();
        ours.next().await.unwrap().unwrap();
        hello(&service, THEIRS, false).await.unwrap();
        let last = loop {
            if let Err(status) = ours.next().await.unwrap() {
                break status;
            }
        };
        assert_eq!(last.code(), Code::Aborted);
    }
}
