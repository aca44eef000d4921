//! Images that are fetched over HTTP, once: what is whole is kept, what was begun is gone on with.
//!
//! A file in the cache has its final name only when all of it is there. A newer version is asked for each time; where
//! nobody answers, the one at hand is used.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use engine::step::Context;
use landfall_proto::{event::Unit, failure::Failure};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::transfer::{self, Got, Trouble, Try, Version};

/// For how long it is tried again without a single byte coming.
const PATIENCE: Duration = Duration::from_secs(300);
/// For how long a newer version is asked for where there is one already.
const PATIENCE_WITH_ONE: Duration = Duration::from_secs(20);
/// Pauses between two tries.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(15)];

/// What is told meanwhile.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Bytes(u64, Option<u64>),
    Waiting(String),
    Line(String),
}

/// The names of one image in the cache.
#[derive(Debug)]
struct Place {
    whole: PathBuf,
    version: PathBuf,
    part: PathBuf,
    part_version: PathBuf,
    lock: PathBuf,
}

/// Returns a file with what is at an address: from the cache where that is the newest version, else downloaded.
///
/// Goes on where an earlier download stopped, in this process or another one. Whether it is an image is not looked at.
pub async fn fetch(url: &str, cx: &Context) -> Result<PathBuf, Failure> {
    let cx = cx.clone();
    let tell = move |told| match told {
        Told::Bytes(done, total) => cx.progress(done, total, Unit::Bytes),
        Told::Waiting(what) => cx.waiting(what),
        Told::Line(text) => cx.line(text),
    };
    fetch_into(&cache()?, url, PATIENCE, tell).await
}

async fn fetch_into(
    folder: &Path,
    url: &str,
    patience: Duration,
    tell: impl Fn(Told) + Clone + Send + 'static,
) -> Result<PathBuf, Failure> {
    let shown = shown(url);
    let cannot = || Failure::new(format!("cannot download {shown}")).code("LF0343");
    let place = Place::new(folder, url);
    let writing = |error: &io::Error| {
        cannot()
            .because(format!("writing to {}", folder.display()))
            .caused_by(error)
    };
    fs::create_dir_all(folder).map_err(|error| writing(&error))?;
    let _lock = lock(&place, &tell).await.map_err(|error| writing(&error))?;
    let have = place.whole.is_file();
    let patience = if have {
        patience.min(PATIENCE_WITH_ONE)
    } else {
        patience
    };
    let why = match download(&place, url, &shown, patience, tell.clone()).await {
        Ok(Got::Unchanged) => return Ok(place.whole),
        Ok(Got::Whole(version)) => {
            place.finish(&version).map_err(|error| writing(&error))?;
            return Ok(place.whole);
        }
        Err(why) => why,
    };
    if have {
        let why = why.join(": ");
        tell(Told::Line(format!(
            "warning: {shown} was not asked for a newer version: {why}; continuing because it was downloaded before"
        )));
        return Ok(place.whole);
    }
    let failure = why.into_iter().fold(cannot(), Failure::because);
    Err(failure.hint("download it in another way, and give the file: `--kexec FILE`"))
}

/// Tries until it is there, no more bytes come for too long, or no try can do better. The error is a list of causes.
async fn download(
    place: &Place,
    url: &str,
    shown: &str,
    patience: Duration,
    tell: impl Fn(Told) + Clone + Send + 'static,
) -> Result<Got, Vec<String>> {
    let client = transfer::client();
    let (mut last_byte, mut pause) = (Instant::now(), PAUSES[0]);
    loop {
        let why = match attempt(place, url, &client, tell.clone()).await {
            Ok(got) => return Ok(got),
            Err(Trouble::Final(causes)) => return Err(causes),
            Err(Trouble::Again { why, further }) => {
                if further {
                    (last_byte, pause) = (Instant::now(), PAUSES[0]);
                }
                why
            }
        };
        if last_byte.elapsed() + pause > patience {
            return Err(vec![
                format!("no byte came for {} s", last_byte.elapsed().as_secs()),
                why,
            ]);
        }
        tell(Told::Waiting(format!("{shown} to answer again ({why})")));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

async fn attempt(
    place: &Place,
    url: &str,
    client: &ureq::Agent,
    tell: impl Fn(Told) + Send + 'static,
) -> Result<Got, Trouble> {
    let stop = CancellationToken::new();
    let _stopped_when_dropped = stop.clone().drop_guard();
    let (client, url) = (client.clone(), url.to_owned());
    let (part, part_version) = (place.part.clone(), place.part_version.clone());
    let have: Option<Version> = place
        .whole
        .is_file()
        .then(|| transfer::read_version(&place.version))
        .flatten();
    let (sender, ended) = tokio::sync::oneshot::channel();
    // not on the runtime, whose end would wait for a silent server
    std::thread::spawn(move || {
        let attempt = Try {
            url: &url,
            part: &part,
            part_version: &part_version,
            have: have.as_ref(),
            stop: &stop,
        };
        let got = attempt.go(&client, |done, total| tell(Told::Bytes(done, total)));
        // nobody waits any more when the run was stopped
        let _ = sender.send(got);
    });
    ended.await.expect("downloading does not panic")
}

/// Waits until no other process downloads the same.
async fn lock(place: &Place, tell: &impl Fn(Told)) -> io::Result<File> {
    let file = File::create(&place.lock)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {
                tell(Told::Waiting(
                    "another landfall that downloads the same image".to_owned(),
                ));
                tokio::time::sleep(PAUSES[0]).await;
            }
        }
    }
}

impl Place {
    fn new(folder: &Path, url: &str) -> Self {
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let name: String = path
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c))
            .take(100)
            .collect();
        let whole = format!("{}-{name}", blake3::hash(url.as_bytes()));
        let beside = |ending: &str| folder.join(format!("{whole}{ending}"));
        Self {
            version: beside(".json"),
            part: beside(".part"),
            part_version: beside(".part.json"),
            lock: beside(".lock"),
            whole: folder.join(&whole),
        }
    }

    /// Gives what was downloaded its name. A crash between two lines costs another download, never a wrong file.
    fn finish(&self, version: &Version) -> io::Result<()> {
        if let Err(error) = fs::remove_file(&self.version)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        fs::rename(&self.part, &self.whole)?;
        transfer::write_version(&self.version, version)?;
        fs::remove_file(&self.part_version)
    }
}

/// Returns an address without what may be secret: the user's name and password, and the query.
fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// Returns `$XDG_CACHE_HOME/landfall/images`.
fn cache() -> Result<PathBuf, Failure> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = named
        .filter(|path| path.is_absolute())
        .or_else(|| Some(std::env::home_dir()?.join(".cache")))
        .ok_or_else(|| {
            Failure::new("cannot find a folder for downloads")
                .because("there is neither XDG_CACHE_HOME nor a home directory")
                .hint("name one: `XDG_CACHE_HOME=DIR landfall …`")
                .code("LF0343")
        })?;
    Ok(cache.join("landfall/images"))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::{SocketAddr, TcpListener},
        sync::{Arc, Mutex},
    };

    use super::*;

    /// What the server says to one request, after which it closes the connection.
    struct Answer {
        head: String,
        body: Vec<u8>,
    }

    fn content() -> Vec<u8> {
        (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
    }

    fn answer(head: &str, body: &[u8]) -> Answer {
        Answer {
            head: head.to_owned(),
            body: body.to_vec(),
        }
    }

    /// An answer with a length that may be more than what is sent.
    fn part(status: &str, more: &str, length: usize, body: &[u8]) -> Answer {
        answer(
            &format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}\r\n"),
            body,
        )
    }

    /// Gives the answers one after the other, and hands back what was asked; nothing listens afterwards.
    fn serve(answers: Vec<Answer>) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let ask = |answer: Answer| {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let asked: Vec<String> = lines
                    .map(Result::unwrap)
                    .take_while(|line| !line.is_empty())
                    .collect();
                stream.write_all(answer.head.as_bytes()).unwrap();
                stream.write_all(&answer.body).unwrap();
                asked.join("\n").to_lowercase()
            };
            answers.into_iter().map(ask).collect()
        });
        (address, server)
    }

    async fn get(
        folder: &Path,
        address: SocketAddr,
        patience: Duration,
    ) -> (Result<PathBuf, Failure>, Vec<Told>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = {
            let told = Arc::clone(&told);
            move |one| told.lock().unwrap().push(one)
        };
        let url = format!("http://{address}/a/image.tar.gz");
        let got = fetch_into(folder, &url, patience, tell).await;
        let told = std::mem::take(&mut *told.lock().unwrap());
        (got, told)
    }

    const ETAG: &str = "ETag: \"one\"\r\n";

    #[tokio::test]
    async fn broken_download_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let all = content();
        let half = all.len() / 2;
        let range = format!(
            "Content-Range: bytes {half}-{}/{}\r\n{ETAG}",
            all.len() - 1,
            all.len()
        );
        let (address, server) = serve(vec![
            part("200 OK", ETAG, all.len(), &all[..half]),
            part("503 Service Unavailable", "", 0, b""),
            part(
                "206 Partial Content",
                &range,
                all.len() - half,
                &all[half..],
            ),
        ]);
        let (got, told) = get(folder.path(), address, PATIENCE).await;
        assert!(fs::read(got.unwrap()).unwrap() == all);
        let asked = server.join().unwrap();
        assert!(!asked[0].contains("range:"), "{}", asked[0]);
        for asked in &asked[1..] {
            assert!(asked.contains(&format!("range: bytes={half}-")), "{asked}");
            assert!(asked.contains("if-range: \"one\""), "{asked}");
        }
        assert_eq!(
            told.last(),
            Some(&Told::Bytes(all.len() as u64, Some(all.len() as u64)))
        );
    }

    #[tokio::test]
    async fn file_that_changed_meanwhile_is_fetched_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (vec![1; 200_000], content());
        let (address, server) = serve(vec![
            part("200 OK", ETAG, old.len(), &old[..100_000]),
            part("200 OK", "ETag: \"two\"\r\n", new.len(), &new),
        ]);
        let (got, _) = get(folder.path(), address, PATIENCE).await;
        assert!(fs::read(got.unwrap()).unwrap() == new);
        assert!(server.join().unwrap()[1].contains("if-range: \"one\""));
    }

    #[tokio::test]
    async fn cached_file_is_used_while_it_is_the_newest_or_nobody_answers() {
        let folder = tempfile::tempdir().unwrap();
        let all = content();
        let (address, server) = serve(vec![
            part("200 OK", ETAG, all.len(), &all),
            answer("HTTP/1.1 304 Not Modified\r\n\r\n", b""),
        ]);
        let first = get(folder.path(), address, PATIENCE).await.0.unwrap();
        let (second, told) = get(folder.path(), address, PATIENCE).await;
        assert_eq!((second.unwrap(), told), (first.clone(), vec![]));
        assert!(server.join().unwrap()[1].contains("if-none-match: \"one\""));

        let (third, told) = get(folder.path(), address, Duration::ZERO).await;
        assert_eq!(third.unwrap(), first);
        let [Told::Line(warning)] = &told[..] else {
            panic!("{told:?}")
        };
        assert!(
            warning.starts_with("warning: http://127.0.0.1"),
            "{warning}"
        );
        assert!(
            warning.ends_with("; continuing because it was downloaded before"),
            "{warning}"
        );
        assert!(fs::read(first).unwrap() == all);
    }

    #[tokio::test]
    async fn missing_file_is_not_asked_for_twice() {
        let folder = tempfile::tempdir().unwrap();
        let (address, server) = serve(vec![part("404 Not Found", "", 0, b"")]);
        let failure = get(folder.path(), address, PATIENCE).await.0.unwrap_err();
        assert_eq!(
            failure.what,
            format!("cannot download http://{address}/a/image.tar.gz")
        );
        assert_eq!(failure.causes, ["the server answers 404 Not Found"]);
        assert_eq!(server.join().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn silence_ends_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let (address, server) = serve(vec![]);
        server.join().unwrap();
        let failure = get(folder.path(), address, Duration::ZERO)
            .await
            .0
            .unwrap_err();
        assert_eq!(failure.causes[0], "no byte came for 0 s");
    }

    #[test]
    fn secrets_in_an_address_are_not_shown() {
        assert_eq!(
            shown("https://me:pass@h:1/a@b?token=x#y"),
            "https://h:1/a@b"
        );
        assert_eq!(shown("https://h?x"), "https://h");
    }
}
