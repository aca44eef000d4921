//! systemd, through its bus: no program of its own is needed, and none is parsed.

use std::time::Duration;

use landfall_proto::failure::Failure;
use zbus::{
    Connection, DynamicType, OwnedObjectPath, OwnedVariant, Variant, wire::DynamicDeserialize,
};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";

/// systemd answers within milliseconds; a machine that swaps takes longer.
const ANSWER: Duration = Duration::from_secs(20);

/// How long a program must stay up before it counts as started: one that may not be executed ends at once.
const SETTLE: Duration = Duration::from_millis(700);

/// How often it is looked whether a unit has stopped.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

type Properties<'a> = Vec<(&'a str, Variant<'a>)>;

/// Starts a program as a transient service that outlives the login, is restarted when it dies, and is one control group
/// with all its children.
pub async fn start_unit(name: &str, argv: &[&str]) -> Result<(), Failure> {
    let headline = format!("cannot start {name}");
    let systemd = Systemd::connect()
        .await
        .map_err(|failure| failure.under(&headline))?;
    let _ = systemd.call::<_, ()>("ResetFailedUnit", &(name,)).await;
    // systemd before 243 knows less, and refuses all for one word that it does not know
    let started = match systemd.start(name, argv, true).await {
        Ok(()) => Ok(()),
        Err(_) => systemd.start(name, argv, false).await,
    };
    started.map_err(|error| Failure::new(&headline).caused_by(&error).code("LF1208"))?;
    tokio::time::sleep(SETTLE).await;
    let state = systemd.state(name).await;
    if state.as_deref() == Ok("running") {
        return Ok(());
    }
    let _ = systemd
        .call::<_, OwnedObjectPath>("StopUnit", &(name, "replace"))
        .await;
    let state = state.unwrap_or_else(|error| error.to_string());
    Err(Failure::new(headline)
        .because(format!("it did not stay up ({state})"))
        .code("LF1207"))
}

/// Stops a unit, and returns once it is. One that is not there is.
pub(super) async fn stop_unit(name: &str) -> Result<(), Failure> {
    let headline = format!("cannot stop {name}");
    let systemd = Systemd::connect()
        .await
        .map_err(|failure| failure.under(&headline))?;
    let under = |error: zbus::Error| Failure::new(&headline).caused_by(&error).code("LF1208");
    // loads what is not loaded: a unit that nobody knows is then inactive, and no error
    let path: OwnedObjectPath = systemd.call("LoadUnit", &(name,)).await.map_err(under)?;
    let asked = systemd
        .call::<_, OwnedObjectPath>("StopUnit", &(name, "replace"))
        .await;
    let stopped = async {
        loop {
            let state: String = systemd.get(path.as_str(), UNIT, "ActiveState").await?;
            if matches!(state.as_str(), "inactive" | "failed") {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let stopped = tokio::time::timeout(ANSWER, stopped).await;
    match (stopped, asked) {
        (Ok(stopped), _) => stopped.map_err(under),
        (Err(_), Err(error)) => Err(under(error)),
        (Err(_), Ok(_)) => Err(Failure::new(&headline)
            .because("it does not stop")
            .code("LF1208")),
    }
}

/// Asks systemd to reboot the machine. Returns once systemd has begun to.
pub(super) async fn reboot() -> Result<(), Failure> {
    let headline = "cannot ask systemd to reboot";
    let systemd = Systemd::connect()
        .await
        .map_err(|failure| failure.under(headline))?;
    let asked = systemd
        .call::<_, OwnedObjectPath>("StartUnit", &("reboot.target", "replace-irreversibly"))
        .await;
    asked
        .map(drop)
        .map_err(|error| Failure::new(headline).caused_by(&error).code("LF1208"))
}

struct Systemd(Connection);

impl Systemd {
    /// Connects to the system bus, or straight to systemd where there is no bus.
    async fn connect() -> Result<Self, Failure> {
        let bus = async {
            let builder = zbus::connection::Builder::system().method_timeout(ANSWER);
            let bus = Self(builder.build().await?);
            bus.get::<String>(MANAGER_PATH, MANAGER, "Version")
                .await
                .map(|_| bus)
        };
        let direct = async {
            let builder = zbus::connection::Builder::address("unix:path=/run/systemd/private");
            builder.p2p().method_timeout(ANSWER).build().await.map(Self)
        };
        let connected = tokio::time::timeout(2 * ANSWER, async {
            match bus.await {
                Ok(bus) => Ok(bus),
                Err(error) => direct.await.map_err(|_| error),
            }
        });
        match connected.await {
            Ok(Ok(systemd)) => Ok(systemd),
            Ok(Err(error)) => Err(Failure::new("connecting to systemd")
                .caused_by(&error)
                .code("LF1208")),
            Err(_) => Err(Failure::new("connecting to systemd")
                .because("it does not answer")
                .code("LF1208")),
        }
    }

    async fn start(&self, name: &str, argv: &[&str], modern: bool) -> zbus::Result<()> {
        // `env` is a program of the system: under SELinux, systemd may not start ours itself
        let command = [&["/usr/bin/env"], argv].concat();
        let exec = vec![("/usr/bin/env", command, false)];
        let users = ["SUDO_USER", "DOAS_USER"].into_iter();
        let users = users.filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
        let environment: Vec<String> = users.collect();
        let mut properties: Properties<'_> = vec![
            ("Description", "Landfall agent".into()),
            ("ExecStart", exec.into()),
            ("Environment", environment.into()),
            ("Restart", "on-failure".into()),
            ("RestartUSec", 1_000_000_u64.into()),
            ("KillMode", "control-group".into()),
        ];
        if modern {
            properties.push(("OOMPolicy", "continue".into()));
            properties.push(("CollectMode", "inactive-or-failed".into()));
        }
        let auxiliary: Vec<(&str, Properties<'_>)> = Vec::new();
        self.call::<_, OwnedObjectPath>(
            "StartTransientUnit",
            &(name, "replace", properties, auxiliary),
        )
        .await
        .map(drop)
    }

    async fn state(&self, name: &str) -> zbus::Result<String> {
        let unit: OwnedObjectPath = self.call("GetUnit", &(name,)).await?;
        self.get(unit.as_str(), UNIT, "SubState").await
    }

    async fn call<B, R>(&self, method: &str, body: &B) -> zbus::Result<R>
    where
        B: serde::Serialize + DynamicType + Sync,
        R: for<'d> DynamicDeserialize<'d>,
    {
        let answer = self
            .0
            .call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), method, body);
        answer.await?.body().deserialize()
    }

    async fn get<T>(&self, path: &str, interface: &str, name: &str) -> zbus::Result<T>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Into<zbus::Error>,
    {
        let properties = Some("org.freedesktop.DBus.Properties");
        let asked = (interface, name);
        let answer = self
            .0
            .call_method(Some(SYSTEMD), path, properties, "Get", &asked)
            .await?;
        let value: OwnedVariant = answer.body().deserialize()?;
        T::try_from(value).map_err(Into::into)
    }
}
