//! A visit of the page: chooses images and reads the results.

use std::path::{Path, PathBuf};

use eirs_cli::browser::{Browser, Installed};
use serde::Deserialize;
use serde_json::{Value, json};

use eirs_harness::{Web, eventually};

/// An entry of the list of images.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Entry {
    pub name: String,
    pub label: Option<String>,
    pub cached: bool,
    pub error: Option<String>,
    /// The width of each bar on the screen.
    pub bars: Vec<f64>,
    /// Whether the image itself is shown.
    pub thumbnail: bool,
}

const ENTRIES: &str = "
return [...document.querySelectorAll('#results > li')].map((entry) => {
  const of = (selector) => entry.querySelector(selector);
  return {
    name: of('.name').textContent,
    label: of('.label') && of('.label').firstChild.textContent,
    cached: of('.badge') !== null && of('.badge').checkVisibility(),
    error: of('.error') && of('.error').textContent,
    bars: [...entry.querySelectorAll('.bar')].map((bar) => parseFloat(getComputedStyle(bar, '::before').width)),
    thumbnail: of('img') !== null && of('img').naturalWidth > 0,
  };
});";

/// An open page.
pub struct Visit {
    pub browser: Browser,
    address: String,
}

impl Visit {
    /// Opens the page of this server; without a browser, notes that the test did not run.
    pub fn to(web: &Web) -> Option<Self> {
        let visit = Self::without_looking(web)?;
        visit.connected();
        Some(visit)
    }

    /// The same for a page without access to the live state.
    pub fn without_looking(web: &Web) -> Option<Self> {
        Self::at(&web.address)
    }

    /// Opens the page at this URL.
    pub fn at(address: &str) -> Option<Self> {
        let Some(installed) = Installed::find() else {
            let how = "apt-get install chromium chromium-driver";
            eirs_platform::testing::not_run("there is no Chromium with its chromedriver", how);
            return None;
        };
        let browser = Browser::start(&installed).expect("a browser");
        browser.open(&format!("http://{address}/")).expect("the page");
        Some(Self { browser, address: address.to_owned() })
    }

    pub fn script(&self, body: &str) -> Value {
        self.browser.script(body, &[]).expect("a script that runs")
    }

    /// Returns the text of a visible element; empty if it is missing or hidden.
    pub fn text(&self, selector: &str) -> String {
        let body = "const at = document.querySelector(arguments[0]); return at && at.checkVisibility() ? \
            at.innerText : ''";
        let text = self.browser.script(body, &[selector.into()]).expect("a script that runs");
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page shows that it is live.
    pub fn connected(&self) {
        eventually("the page is live", || (self.text("#connection") == "live").then_some(()));
    }

    /// Chooses files, as in the file dialogue of the browser.
    pub fn pick(&self, files: &[PathBuf]) {
        // chromedriver refuses a path with `..`.
        let whole = |file: &PathBuf| file.canonicalize().expect("a file that is there").display().to_string();
        let paths: Vec<_> = files.iter().map(whole).collect();
        self.browser.type_into("#files", &paths.join("\n")).expect("files are picked");
    }

    /// Chooses a folder, as in the folder dialogue of the browser.
    pub fn pick_folder(&self, folder: &Path) {
        self.browser.type_into("#folder", &folder.display().to_string()).expect("a folder is picked");
    }

    /// Drops files and folders, as from a file manager.
    pub fn drop(&self, paths: &[PathBuf]) {
        let whole = |path: &PathBuf| path.canonicalize().expect("it is there").display().to_string();
        let paths: Vec<_> = paths.iter().map(whole).collect();
        for step in ["dragEnter", "dragOver", "drop"] {
            let data = json!({"items": [], "files": paths, "dragOperationsMask": 1});
            let event = json!({"type": step, "x": 200, "y": 200, "data": data});
            self.browser.devtools("Input.dispatchDragEvent", &event).expect("the hand moves");
        }
    }

    /// Drops or pastes a file, with the browser's event and data transfer.
    pub fn bring(&self, event: &str, name: &str, kind: &str, content: &[u8]) {
        let body = "
const [event, name, type, bytes] = arguments;
const transfer = new DataTransfer();
transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
const usual = { bubbles: true, cancelable: true };
document.body.dispatchEvent(event === 'paste'
  ? new ClipboardEvent(event, { ...usual, clipboardData: transfer })
  : new DragEvent(event, { ...usual, dataTransfer: transfer }));";
        let arguments = [event.into(), name.into(), kind.into(), json!(content)];
        self.browser.script(body, &arguments).expect("the event is heard");
    }

    pub fn entries(&self) -> Vec<Entry> {
        serde_json::from_value(self.script(ENTRIES)).expect("the list of results")
    }

    /// Returns the accessible name of each plot.
    pub fn plots(&self) -> Vec<String> {
        let names = self.script(
            "return [...document.querySelectorAll('#charts svg')].map((plot) => \
             plot.getAttribute('aria-label'))",
        );
        let names: Vec<String> = serde_json::from_value(names).expect("a name each");
        assert_eq!(names.len(), 3);
        names
    }

    /// Waits until exactly this number of images have a label or an error.
    pub fn settled(&self, images: usize) -> Vec<Entry> {
        let mut last = Vec::new();
        eventually("every image is done", || {
            last = self.entries();
            let is_done = |entry: &Entry| entry.label.is_some() || entry.error.is_some();
            (last.len() == images && last.iter().all(is_done)).then(|| last.clone())
        })
    }

    /// Returns the errors in the console, except those about HTTP errors of the server.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.browser.log("browser").expect("the console");
        let counts = |entry: &&Value| entry["level"] == "SEVERE" && entry["source"] != "network";
        entries.iter().filter(counts).map(Value::to_string).collect()
    }

    /// Returns every URL that the browser requested from other servers. (Its own start page,
    /// `chrome:`, is local.)
    pub fn asked_elsewhere(&self) -> Vec<String> {
        let home = format!("http://{}/", self.address);
        let asked = self.asked();
        assert!(asked.contains(&home), "the log must contain this page: {asked:?}");
        let is_elsewhere = |url: &String| {
            !["blob:", "data:", "about:", "chrome:"]
                .iter()
                .chain([&home.as_str()])
                .any(|known| url.starts_with(known))
        };
        asked.into_iter().filter(is_elsewhere).collect()
    }

    fn asked(&self) -> Vec<String> {
        let entries = self.browser.log("performance").expect("the log of requests");
        let message = |entry: &Value| serde_json::from_str::<Value>(entry["message"].as_str()?).ok();
        let requests = entries.iter().filter_map(message).filter_map(|entry| {
            let event = &entry["message"];
            let is_request = event["method"] == "Network.requestWillBeSent";
            is_request.then(|| event["params"]["request"]["url"].as_str().map(str::to_owned))?
        });
        requests.collect()
    }

    /// Sets the width of the screen.
    pub fn narrow(&self, width: u32) {
        let screen = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        self.browser.devtools("Emulation.setDeviceMetricsOverride", &screen).expect("another width");
    }
}

/// Returns the path of a sample of the built-in model.
pub fn sample_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/shapes/samples").join(name)
}
