//! One try to get a file over HTTP, going on where an earlier one stopped. Blocks.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use ureq::{
    Body,
    http::{HeaderMap, Response, StatusCode, header},
    tls::{RootCerts, TlsConfig},
};

/// Longest that a server may take to say the next thing.
const SILENCE: Duration = Duration::from_secs(30);
/// Pause between two figures of progress.
const FIGURES: Duration = Duration::from_millis(100);

/// By what a server knows a version of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    /// Its `ETag`.
    pub(super) etag: Option<String>,
    /// Its `Last-Modified`.
    pub(super) modified: Option<String>,
}

/// What a try was for.
pub(super) struct Try<'a> {
    /// Where it is fetched from.
    pub(super) url: &'a str,
    /// Where it is written to, going on behind what is there.
    pub(super) part: &'a Path,
    /// Where the version of what is in `part` is written to.
    pub(super) part_version: &'a Path,
    /// A version that need not be fetched again.
    pub(super) have: Option<&'a Version>,
    /// Stops it between two reads.
    pub(super) stop: &'a CancellationToken,
}

/// How a try ended well.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// All of it is in `part`.
    Whole(Version),
    /// The version at hand is the newest.
    Unchanged,
}

/// How a try failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The next one may do better; `further` where this one got any bytes.
    Again {
        /// Why.
        why: String,
        /// Whether it got any bytes.
        further: bool,
    },
    /// No other try will do better.
    Final(Vec<String>),
}

/// Makes what sends requests: the system's certificates, proxies as the environment says.
pub(super) fn client() -> ureq::Agent {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(provider)
        .build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        // an image is compressed already, and a range must be one of the file itself
        .accept_encoding("identity")
        .user_agent(concat!("landfall/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .build();
    config.new_agent()
}

impl Try<'_> {
    /// Does it. `told` hears how many bytes are there, and how many there are in all.
    pub(super) fn go(
        &self,
        client: &ureq::Agent,
        mut told: impl FnMut(u64, Option<u64>),
    ) -> Result<Got, Trouble> {
        let begun = fs::metadata(self.part).map_or(0, |metadata| metadata.len());
        let begun_version = read_version(self.part_version).unwrap_or_default();
        let resume = begun_version.strong().filter(|_| begun > 0);
        let mut request = client.get(self.url);
        if let Some(strong) = resume {
            request = request.header(header::RANGE, format!("bytes={begun}-"));
            request = request.header(header::IF_RANGE, strong);
        } else if let Some(have) = self.have {
            if let Some(etag) = &have.etag {
                request = request.header(header::IF_NONE_MATCH, etag);
            }
            if let Some(modified) = &have.modified {
                request = request.header(header::IF_MODIFIED_SINCE, modified);
            }
        }
        let response = request.call().map_err(trouble)?;
        let (offset, total) = match response.status() {
            StatusCode::NOT_MODIFIED if self.have.is_some() => return Ok(Got::Unchanged),
            StatusCode::OK => (0, number(response.headers(), header::CONTENT_LENGTH)),
            StatusCode::PARTIAL_CONTENT => match range(response.headers()) {
                Some((offset, total)) if offset == begun && resume.is_some() => (offset, total),
                _ => return Err(self.begin_anew("the server sent another part than was asked for")),
            },
            StatusCode::RANGE_NOT_SATISFIABLE if resume.is_some() => {
                return match range(response.headers()) {
                    Some((_, Some(total))) if total == begun => Ok(Got::Whole(begun_version)),
                    _ => Err(self.begin_anew("the file became shorter")),
                };
            }
            status => return Err(refused(status)),
        };
        let version = Version::of(response.headers());
        let mut file = self.open(offset, &version)?;
        let done = self.receive(response, &mut file, offset, total, &mut told)?;
        if total.is_some_and(|total| total != done) {
            let why = format!("{done} bytes came instead of {}", total.unwrap_or_default());
            return Err(Trouble::Again {
                why,
                further: done > offset,
            });
        }
        file.sync_all().map_err(|error| self.unwritable(&error))?;
        told(done, Some(done));
        Ok(Got::Whole(version))
    }

    fn receive(
        &self,
        response: Response<Body>,
        file: &mut File,
        offset: u64,
        total: Option<u64>,
        told: &mut impl FnMut(u64, Option<u64>),
    ) -> Result<u64, Trouble> {
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 128 << 10];
        let mut done = offset;
        let mut last = Instant::now();
        told(done, total);
        loop {
            if self.stop.is_cancelled() {
                return Err(Trouble::Final(vec!["the run was stopped".to_owned()]));
            }
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(done),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let why = format!("reading its answer: {error}");
                    return Err(Trouble::Again {
                        why,
                        further: done > offset,
                    });
                }
            };
            file.write_all(&buffer[..count])
                .map_err(|error| self.unwritable(&error))?;
            done += count as u64;
            if last.elapsed() >= FIGURES {
                last = Instant::now();
                told(done, total);
            }
        }
    }

    fn open(&self, offset: u64, version: &Version) -> Result<File, Trouble> {
        let open = || {
            let mut options = OpenOptions::new();
            if offset > 0 {
                return options.append(true).open(self.part);
            }
            let file = options
                .create(true)
                .write(true)
                .truncate(true)
                .open(self.part)?;
            // only now: what was there belonged to another version
            write_version(self.part_version, version)?;
            Ok(file)
        };
        open().map_err(|error| self.unwritable(&error))
    }

    fn begin_anew(&self, why: &str) -> Trouble {
        match fs::remove_file(self.part) {
            Ok(()) => Trouble::Again {
                why: why.to_owned(),
                further: false,
            },
            Err(error) => self.unwritable(&error),
        }
    }

    fn unwritable(&self, error: &io::Error) -> Trouble {
        Trouble::Final(vec![
            format!("writing {}", self.part.display()),
            error.to_string(),
        ])
    }
}

impl Version {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name)?.to_str().ok().map(str::to_owned);
        Self {
            etag: text(header::ETAG),
            modified: text(header::LAST_MODIFIED),
        }
    }

    /// Returns what tells this version from every other one, byte for byte; a weak tag does not (RFC 9110, 13.1.5).
    fn strong(&self) -> Option<&str> {
        let etag = self.etag.as_deref().filter(|etag| !etag.starts_with("W/"));
        etag.or(self.modified.as_deref().filter(|_| self.etag.is_none()))
    }
}

/// Reads a version that was written; none when there is none that can be read.
pub(super) fn read_version(path: &Path) -> Option<Version> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes a version.
pub(super) fn write_version(path: &Path, version: &Version) -> io::Result<()> {
    fs::write(path, serde_json::to_vec(version)?)
}

fn number(headers: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Reads `Content-Range`: `bytes 5-9/10`, or `bytes */10` where nothing is sent.
fn range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (part, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let offset = part
        .split_once('-')
        .and_then(|(first, _)| first.parse().ok());
    Some((offset.unwrap_or(0), total.parse().ok()))
}

fn refused(status: StatusCode) -> Trouble {
    let why = format!("the server answers {status}");
    let passing = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
    if passing {
        Trouble::Again {
            why,
            further: false,
        }
    } else {
        Trouble::Final(vec![why])
    }
}

fn trouble(error: ureq::Error) -> Trouble {
    let lasting = match &error {
        ureq::Error::BadUri(_)
        | ureq::Error::Http(_)
        | ureq::Error::TooManyRedirects
        | ureq::Error::InvalidProxyUrl => true,
        ureq::Error::Io(error) => is_distrust(error),
        _ => false,
    };
    if lasting {
        Trouble::Final(vec![error.to_string()])
    } else {
        Trouble::Again {
            why: error.to_string(),
            further: false,
        }
    }
}

/// Whether the server's certificate was refused; the next try would see the same one.
fn is_distrust(error: &io::Error) -> bool {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}
