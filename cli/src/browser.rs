//! Drives a headless Chromium through chromedriver (WebDriver), to test and measure the page. The
//! protocol needs only a few JSON requests, which is less code than a client library.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::{Value, json};

/// Time limit for a step of a page, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The key of element references in WebDriver.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// Arguments that disable features a page under test does not need, most of which would contact
/// other hosts.
const ARGUMENTS: [&str; 9] = [
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,1000",
];

/// The paths of both programs.
#[derive(Debug, Clone)]
pub struct Installed {
    driver: PathBuf,
    chromium: PathBuf,
}

impl Installed {
    /// Finds both programs in `$PATH`.
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let find =
            |name: &&str| std::env::split_paths(&path).map(|f| f.join(name)).find(|file| file.is_file());
        let driver = find(&"chromedriver")?;
        let chromium = ["chromium", "chromium-browser", "google-chrome"].iter().find_map(find)?;
        Some(Self { driver, chromium })
    }
}

/// A running Chromium with one window, which is ended when this is dropped.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    // chromedriver exits at its next line of output if the pipe is closed.
    _output: BufReader<ChildStdout>,
    port: u16,
    /// The path of the session.
    session: String,
    chromium: Option<Pid>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts chromedriver and Chromium with a new profile.
    pub fn start(installed: &Installed) -> anyhow::Result<Self> {
        let profile = tempfile::Builder::new().prefix("eirs-browser-").tempdir()?;
        let mut command = Command::new(&installed.driver);
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().context("starting chromedriver")?;
        let mut output = BufReader::new(driver.stdout.take().context("chromedriver has no output")?);
        // From here on, dropping `browser` ends chromedriver.
        let port = port_in(&mut output);
        let mut browser = Self {
            driver,
            _output: output,
            port: port.unwrap_or_default(),
            session: String::new(),
            chromium: None,
            _profile: profile,
        };
        port.context("chromedriver does not say on which port it listens")?;
        let mut arguments: Vec<_> = ARGUMENTS.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={}", browser._profile.path().display()));
        if geteuid().is_root() {
            // Chromium's sandbox does not run as root.
            arguments.push("--no-sandbox".into());
        }
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": installed.chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        });
        let made = browser.call("POST", "/session", &json!({"capabilities": {"alwaysMatch": wanted}}))?;
        let id = made["sessionId"].as_str().context("chromedriver names no session")?;
        browser.session = format!("/session/{id}");
        let pid = made["capabilities"]["goog:processID"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        browser.chromium = pid.and_then(Pid::from_raw);
        Ok(browser)
    }

    /// Opens a URL and waits until the page with all its resources is loaded.
    pub fn open(&self, url: &str) -> anyhow::Result<()> {
        self.post("/url", &json!({"url": url})).map(drop)
    }

    /// Runs the body of a function in the page, and returns its result.
    pub fn script(&self, body: &str, arguments: &[Value]) -> anyhow::Result<Value> {
        self.post("/execute/sync", &json!({"script": body, "args": arguments}))
    }

    /// Clicks the first element that matches a CSS selector.
    pub fn click(&self, selector: &str) -> anyhow::Result<()> {
        let element = self.element(selector)?;
        self.post(&format!("/element/{element}/click"), &json!({})).map(drop)
    }

    /// Types into an element; for a file input, each line is the path of a file.
    pub fn type_into(&self, selector: &str, text: &str) -> anyhow::Result<()> {
        let element = self.element(selector)?;
        self.post(&format!("/element/{element}/value"), &json!({"text": text})).map(drop)
    }

    /// Presses and releases a key, for the element with the focus.
    pub fn press(&self, key: &str) -> anyhow::Result<()> {
        let strokes = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]});
        self.post("/actions", &actions).map(drop)
    }

    /// Returns the accessible name of the element with the focus.
    pub fn name_of_focus(&self) -> anyhow::Result<String> {
        let focus = self.call("GET", &format!("{}/element/active", self.session), &Value::Null)?;
        let path = format!("{}/element/{}/computedlabel", self.session, id_of(&focus)?);
        Ok(self.call("GET", &path, &Value::Null)?.as_str().unwrap_or_default().to_owned())
    }

    /// Runs a command of the DevTools protocol.
    pub fn devtools(&self, command: &str, parameters: &Value) -> anyhow::Result<Value> {
        self.post("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Returns the entries of a log (`browser` or `performance`) since the last call.
    pub fn log(&self, kind: &str) -> anyhow::Result<Vec<Value>> {
        let entries = self.post("/se/log", &json!({"type": kind}))?;
        Ok(entries.as_array().cloned().unwrap_or_default())
    }

    fn element(&self, selector: &str) -> anyhow::Result<String> {
        let found = self.post("/element", &json!({"using": "css selector", "value": selector}))?;
        id_of(&found)
    }

    fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call("POST", &format!("{}{path}", self.session), body)
    }

    /// Sends one command on a new connection; an error contains the message of chromedriver.
    fn call(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost:{}\r\n", self.port);
        let length = body.len();
        write!(
            head,
            "content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )?;
        let asked = || -> anyhow::Result<Value> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all((head + &body).as_bytes())?;
            answer(&mut BufReader::new(stream))
        };
        let answer = asked().with_context(|| format!("asking chromedriver for {method} {path}"))?;
        let value = answer.get("value").cloned().unwrap_or_default();
        if let Some(error) = value.get("error").and_then(Value::as_str) {
            let message = value["message"].as_str().unwrap_or_default();
            bail!("chromedriver refused {method} {path}: {error}: {message}");
        }
        Ok(value)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let is_closed = !self.session.is_empty() && self.call("DELETE", &self.session, &Value::Null).is_ok();
        if let Some(chromium) = self.chromium.filter(|_| !is_closed) {
            let _gone = kill_process(chromium, Signal::KILL);
        }
        let _gone = self.driver.kill();
        let _gone = self.driver.wait();
    }
}

fn id_of(element: &Value) -> anyhow::Result<String> {
    let id = element.get(ELEMENT).and_then(Value::as_str);
    id.map(str::to_owned).context("chromedriver answered something that is no element")
}

/// Finds the port in the line `ChromeDriver was started successfully on port 40123.`
fn port_in(output: &mut impl BufRead) -> Option<u16> {
    let mut lines = output.lines().map_while(Result::ok);
    lines.find_map(|line| line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok())
}

/// Reads the JSON of a response, which always has a length.
fn answer(stream: &mut impl BufRead) -> anyhow::Result<Value> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            bail!("it hung up");
        }
        if line.trim().is_empty() {
            break;
        }
        let header = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if let Some((_, value)) = header {
            length = Some(value.trim().parse().context("a length that is no number")?);
        }
    }
    let mut body = vec![0; length.context("it does not say how long its answer is")?];
    stream.read_exact(&mut body)?;
    serde_json::from_slice(&body).context("its answer is no JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_in_the_output_of_the_driver() {
        let said = "Starting ChromeDriver 156\nChromeDriver was started successfully on port 40123.\n";
        assert_eq!(port_in(&mut said.as_bytes()), Some(40123));
        assert_eq!(port_in(&mut &b"it failed\n"[..]), None);
    }

    #[test]
    fn a_response_is_read_up_to_its_length() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"value\":1}and more";
        assert_eq!(answer(&mut text.as_bytes()).unwrap(), json!({"value": 1}));
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"value\":1}";
        assert!(answer(&mut cut.as_bytes()).is_err());
    }
}
