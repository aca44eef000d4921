//! One connection to the agent: ssh child, TLS inside, HTTP/2 inside that.

use std::{io, time::Duration};

use hyper_util::rt::TokioIo;
use landfall_proto::{
    v1::{HelloReply, HelloRequest, agent_client::AgentClient},
    version, wire,
};
use tokio_rustls::client::TlsStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::{
    shell::Remote,
    ssh::Ssh,
    tls::{self, Trust},
    trouble::{self, LinkError, Meaning},
    tunnel::{Fate, Pulse, Tunnel},
};

/// Time for ssh to say why it ended.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Time for the agent to say who it is.
const HELLO: Duration = Duration::from_secs(20);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Calls: small windows, so that nothing waits behind bytes, and pings that notice a dead link.
    Control,
    /// Streams: windows that fill a long link, and no pings, which would starve behind the bytes.
    Bulk,
}

/// Who calls: the number that every process chooses at random, and whether it drives the machine or only looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) number: u64,
    pub(super) drives: bool,
}

/// The number of the caller, on every call: the agent lets only the newest controller act.
#[derive(Debug, Clone)]
pub(super) struct Signature(MetadataValue<Ascii>);

impl Interceptor for Signature {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(wire::CONTROLLER, self.0.clone());
        Ok(request)
    }
}

/// What makes calls to the agent.
pub(super) type Client = AgentClient<InterceptedService<Channel, Signature>>;

/// One connection to the agent.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) pulse: Pulse,
    fate: Fate,
}

/// Connects by running `command` (the agent's proxy) on the machine.
pub(super) async fn connect(
    ssh: &Ssh,
    command: &Remote,
    trust: &Trust,
    controller: u64,
    purpose: Use,
) -> Result<Connection, LinkError> {
    let tunnel = ssh.tunnel(command)?;
    let (pulse, fate) = (tunnel.pulse(), tunnel.fate());
    let stream = match trust.greet(tunnel).await {
        Ok(stream) => stream,
        Err(error) => return Err(why(&fate, trouble::whole(&error)).await),
    };
    let channel = match open(stream, purpose).await {
        Ok(channel) => channel,
        Err(error) => return Err(why(&fate, trouble::whole(&error)).await),
    };
    let max = match purpose {
        Use::Control => wire::CONTROL_MESSAGE_MAX,
        Use::Bulk => wire::LANE_MESSAGE_MAX,
    };
    let number = controller.to_string().parse();
    let signature = Signature(number.expect("a decimal number is ASCII"));
    let client = AgentClient::with_interceptor(channel, signature)
        .max_decoding_message_size(max)
        .max_encoding_message_size(max);
    Ok(Connection {
        client,
        pulse,
        fate,
    })
}

/// What is said in Hello.
pub(super) fn introduction(caller: Caller) -> HelloRequest {
    HelloRequest {
        protocol_min: version::PROTOCOL_MIN,
        protocol_max: version::PROTOCOL_MAX,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        controller: caller.number,
        only_looks: !caller.drives,
    }
}

/// Says Hello. A connection counts as up only once this has succeeded.
pub(super) async fn hello(
    connection: &Connection,
    caller: Caller,
) -> Result<HelloReply, LinkError> {
    let request = introduction(caller);
    let mut client = connection.client.clone();
    let reply = match tokio::time::timeout(HELLO, client.hello(request)).await {
        Err(_) => return Err(LinkError::Late(HELLO)),
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => {
            return Err(match trouble::meaning(&status) {
                Meaning::Final(LinkError::Refused(text)) => LinkError::Skew(text),
                Meaning::Final(error) => error,
                Meaning::Transport(words) => connection.why(&words).await,
            });
        }
    };
    match version::agree(reply.protocol, reply.protocol) {
        Some(_) => Ok(reply),
        None => Err(LinkError::Skew(format!(
            "the agent chose protocol {}, and this landfall speaks {} to {}",
            reply.protocol,
            version::PROTOCOL_MIN,
            version::PROTOCOL_MAX
        ))),
    }
}

impl Connection {
    /// Says why the connection is over; `words` are the transport's own.
    pub(super) async fn why(&self, words: &str) -> LinkError {
        why(&self.fate, words.to_owned()).await
    }
}

/// Ssh's own words come first: a broken pipe only shows that ssh has ended.
async fn why(fate: &Fate, words: String) -> LinkError {
    if tls::is_distrust(&words) {
        return LinkError::Distrust(words);
    }
    let mut end = fate.clone().told(LAST_WORDS).await;
    if end.said.is_empty() {
        end.said = words;
    }
    LinkError::from(end)
}

async fn open(stream: TlsStream<Tunnel>, purpose: Use) -> Result<Channel, tonic::transport::Error> {
    // the scheme says only that HTTP/2 itself adds no TLS: the stream below already has it
    let endpoint = Endpoint::from_static("http://landfall-agent");
    let endpoint = match purpose {
        Use::Control => endpoint
            .initial_stream_window_size(256 << 10)
            .initial_connection_window_size(256 << 10)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(30))
            .keep_alive_while_idle(true),
        Use::Bulk => endpoint
            .initial_stream_window_size(16 << 20)
            .initial_connection_window_size(16 << 20),
    };
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_| {
        // a connection is made anew as a whole, by whoever watches it
        let stream = stream
            .take()
            .ok_or_else(|| io::Error::other("the connection is over"));
        std::future::ready(stream.map(TokioIo::new))
    });
    endpoint.connect_with_connector(connector).await
}
