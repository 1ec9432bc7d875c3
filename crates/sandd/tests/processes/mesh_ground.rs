//! A coordinator and nodes of its mesh, all on loopback.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Process, eventually, run, sandd, text};

/// A directory and a coordinator in it.
pub(crate) struct MeshGround {
    pub(crate) directory: tempfile::TempDir,
    _coordinator: Process,
    pub(crate) url: String,
}

impl MeshGround {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = sandd();
        command.args([
            "coordinator",
            "--listen",
            "127.0.0.1:0",
            "--stun",
            "127.0.0.1:0",
            "--memory",
            "--socket",
        ]);
        command.arg(directory.path().join("co.sock")).stdout(Stdio::piped());
        let mut coordinator = Process::spawn(command, directory.path().join("coordinator.log"));
        let line = coordinator.first_line();
        let url = line
            .strip_prefix("coordinator ready at ")
            .unwrap_or_else(|| panic!("{line:?}"))
            .to_owned();
        Self {
            directory,
            _coordinator: coordinator,
            url,
        }
    }

    /// `sandd coordinator ...` at this coordinator.
    pub(crate) fn order(&self, arguments: &[&str]) -> String {
        let output = sandd()
            .arg("coordinator")
            .args(arguments)
            .arg("--socket")
            .arg(self.directory.path().join("co.sock"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text(&output.stdout).trim().to_owned()
    }

    pub(crate) fn key(&self, more: &[&str]) -> String {
        self.order(&[&["key", "create"], more].concat())
    }

    /// Number of the node of this name.
    pub(crate) fn node(&self, name: &str) -> String {
        let nodes: Value = serde_json::from_str(&self.order(&["node", "list", "--json"])).unwrap();
        let node = nodes
            .as_array()
            .unwrap()
            .iter()
            .find(|node| node["name"] == name)
            .unwrap();
        node["id"].to_string()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command that joins this mesh with its state in a directory of this name.
    pub(crate) fn join(&self, verb: &str, state: &str) -> Command {
        let mut command = sandd();
        command
            .arg(verb)
            .args(["--tunnel-server", &self.url, "--tunnel-port", "1", "--tunnel-state-dir"]);
        command.arg(self.path(state)).stdin(Stdio::null()).stdout(Stdio::null());
        if verb != "up" {
            command.arg("--tunnel");
        }
        command
    }

    pub(crate) fn start(&self, command: Command, name: &str) -> Process {
        Process::spawn(command, self.path(&format!("{name}.log")))
    }

    /// A controller that is ready.
    pub(crate) fn controller(&self, state: &str) -> Process {
        let mut command = self.join("controller", state);
        command
            .env("SANDD_TUNNEL_AUTH_KEY", self.key(&[]))
            .stdout(Stdio::piped());
        let mut process = self.start(command, state);
        let line = process.first_line();
        assert!(line.starts_with("controller ready at ws://100.64.0."), "{line}");
        process
    }

    /// A daemon that dials the controller by its name.
    pub(crate) fn daemon(&self, id: &str, state: &str, key: Option<&str>) -> Process {
        let mut command = self.join("daemon", state);
        command.args(["--server-url", "ws://controller:8765/ws", "--daemon-id", id]);
        if let Some(key) = key {
            command.env("SANDD_TUNNEL_AUTH_KEY", key);
        }
        self.start(command, &format!("{state}.{}", self.url.len()))
    }

    /// Ids of the daemons at the controller with this state directory.
    pub(crate) fn daemons(&self, controller: &str) -> Vec<String> {
        let state = self.path(controller);
        let output = sandd()
            .args(["daemons", "--json", "--tunnel-state-dir"])
            .arg(&state)
            .output()
            .unwrap();
        let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let ids = list
            .as_array()
            .into_iter()
            .flatten()
            .map(|daemon| daemon["id"].as_str().unwrap().to_owned());
        ids.collect()
    }

    pub(crate) async fn registered(&self, controller: &str, id: &str) {
        eventually(&format!("{id} registers"), async || {
            self.daemons(controller).contains(&id.to_owned()).then_some(())
        })
        .await;
    }

    /// Runs a command and gives its stdout.
    pub(crate) fn exec(&self, controller: &str, daemon: &str, command: &str) -> String {
        let state = self.path(controller);
        let output = run(&[
            "exec",
            "--tunnel-state-dir",
            state.to_str().unwrap(),
            daemon,
            "--",
            command,
        ]);
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    }

    /// Asks the node with this state directory, and gives stdout or the sentence on stderr.
    pub(crate) fn ask(&self, state: &str, arguments: &[&str]) -> Result<String, String> {
        let (verb, rest) = arguments.split_first().unwrap();
        let output = sandd()
            .arg(verb)
            .arg("--tunnel-state-dir")
            .arg(self.path(state))
            .args(rest)
            .output()
            .unwrap();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// Waits until the node with this state directory has an address.
    pub(crate) async fn address(&self, state: &str) -> String {
        eventually("the node has an address", async || self.ask(state, &["ip", "-4"]).ok())
            .await
            .trim()
            .to_owned()
    }
}

/// Whether anything that a process shows of itself holds this text.
pub(crate) fn shows(pid: u32, secret: &str) -> bool {
    ["cmdline", "environ"].iter().any(|file| {
        let bytes = std::fs::read(Path::new("/proc").join(pid.to_string()).join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(secret)
    })
}
