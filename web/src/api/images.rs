//! `POST /upload` and `GET /results/{id}`

use chrono::DateTime;
use eirs_platform::{
    job::{self, Guess, JobId, Outcome, Reply},
    settings::Model,
};
use poem::http::Method;
use poem_openapi::{
    registry::{
        MetaHeader, MetaMediaType, MetaOperation, MetaOperationParam, MetaParamIn, MetaPath, MetaRequest,
        MetaResponse, MetaSchema, MetaTag, Registry,
    },
    types::Type,
};
use serde_json::json;

use super::parts::{
    answer, body, header, inline, media, operation, path, query, refusal, retry_after, storage, text,
    too_often,
};
use crate::{
    problem::Problem,
    upload::{
        FIELDS, TYPES,
        answer::{Failed, Finished, Line, Pending, finished},
        traced,
    },
};

const TAG: &str = "images";

pub(super) fn register(registry: &mut Registry) {
    registry.create_tag(MetaTag {
        name: TAG,
        description: Some("Images and their labels."),
        external_docs: None,
    });
    Line::register(registry);
}

pub(super) fn upload() -> MetaPath {
    const ABOUT: &str = "\
Send the image in the form field `myfile` (or `file`, `image`, `inputFile`), or as the whole \
body. Its bytes decide its type: JPEG, PNG, WebP, GIF, BMP, TIFF, ICO, PNM or QOI.

The response is the label as text, without a line end, or JSON with confidences for `Accept: \
application/json`. If it takes longer than `wait`, the response is a 202 with the address of the result.

For several images in one form, the response is a 200 with a line of JSON for each, in the order \
in which they finish. A failure of one does not affect the others.

```
curl -w '\\n' -F myfile=@heart.jpg http://127.0.0.1:8000/upload
curl -H 'Accept: application/json' --data-binary @heart.jpg 'http://127.0.0.1:8000/upload?name=heart.jpg&top=3'
curl -F myfile=@heart.jpg -F myfile=@star.jpg http://127.0.0.1:8000/upload
curl -i -F myfile=@heart.jpg 'http://127.0.0.1:8000/upload?wait=0'
```";
    let name = MetaSchema { example: Some(json!("heart.jpg")), ..MetaSchema::new("string") };
    let params = vec![
        query(
            "wait",
            "How long to wait for the label: `60s`, `1m`, or seconds. `0` returns immediately.",
            wait(),
        ),
        model(),
        top(),
        query(
            "fresh",
            "`1` classifies the image even if its result is known, and replaces the stored result.",
            MetaSchema {
                pattern: Some("^(0|1|true|false)?$".to_owned()),
                example: Some(json!("1")),
                ..MetaSchema::new("string")
            },
        ),
        query("name", "The name of an image that is the whole body. It is only shown.", name),
    ];
    let mut responses = vec![
        answer(
            200,
            "The label, or a line for each of several images.",
            vec![
                text("text/plain", "heart"),
                body::<Finished<'_>>("application/json", example_result(&example())),
                lines(),
            ],
        ),
        pending(),
        refusal(
            "`no image`: the request has none, or an empty one. `bad request`: a parameter or the \
            form is invalid, a parameter has several values, or its name is misspelled. Other \
            unknown parameters are ignored.",
            &[
                Problem::no_image("the field `photo` has no image; send it in the field `myfile`"),
                Problem::bad_request("top: must be a number from 1, like `?top=3`"),
            ],
        ),
        refusal("`not found`: unknown model.", &[Problem::not_found("unknown model `dogs`")]),
        refusal(
            "`deleted`: the image was deleted while its upload waited for the label.",
            &[Problem::erased(example().id)],
        ),
        refusal(
            "`upload too slow`: the client paused for too long, or sent too slowly.",
            &[Problem::too_slow("nothing arrived for 15 seconds")],
        ),
        refusal(
            "`too large`: an image has too many bytes, or there are too many images.",
            &[Problem::too_large("an image may have at most 16777216 bytes (16 MiB)")],
        ),
        refusal(
            "`unsupported image type`: EIRS does not read this type. `unsupported encoding`: EIRS \
            does not read this compression. Nothing was stored.",
            &[Problem::not_an_image(), Problem::unknown_encoding("br")],
        ),
    ];
    responses.extend(no_label());
    responses.extend([
        refusal(
            "`too many uploads`: too many uploads are in flight. `too many requests`: this address \
            or token exceeds its rate.",
            &[Problem::too_many_uploads("this server"), too_often()],
        ),
        refusal(
            "`backlog full`: the queue accepts no new images now. `shutting down`: this server is \
            stopping. `no room`: too much is being uploaded. `not queued`: storing took too long. \
            `storage unavailable`: the image could not be stored.",
            &[
                Problem::backlog_full(12),
                Problem::draining(),
                Problem::no_room(),
                Problem::not_queued(),
                storage(),
            ],
        ),
        refusal(
            "`storage full`: no space for new images at the moment. Nothing was stored.",
            &[Problem::disk_full()],
        ),
    ]);
    let about = "The trace of this upload, from `traceparent` or new. Quote it in reports of \
        problems.";
    let trace_id = MetaSchema { pattern: Some("^[0-9a-f]{32}$".to_owned()), ..MetaSchema::new("string") };
    for response in &mut responses {
        let trace_id = header(traced::TRACE_ID, about, trace_id.clone());
        // A request refused by the access checks has no trace.
        response.headers.push(MetaHeader { required: response.status != Some(429), ..trace_id });
    }
    let operation = operation("upload", TAG, "Classify an image", ABOUT, responses);
    path("/upload", Method::POST, MetaOperation { params, request: Some(images()), ..operation })
}

pub(super) fn result() -> MetaPath {
    const ABOUT: &str = "\
The result of an earlier upload, on any host: the id identifies the image by its content. \
Without `model`, it is the result of the model for which the image was uploaded, `default` \
first. Of several versions of a model, it is that of the version in force, else the newest.

```
curl http://127.0.0.1:8000/results/$(sha256sum heart.jpg | cut -d ' ' -f 1)
```";
    let unknown = Problem::not_found(format!("no image {} was uploaded here", example().id));
    let mut responses = vec![
        answer(
            200,
            "The result.",
            vec![body::<Finished<'_>>("application/json", example_result(&example()))],
        ),
        pending(),
        refusal(
            "`bad request`: a parameter is invalid, has several values, or its name is misspelled. \
            Other unknown parameters are ignored.",
            &[Problem::bad_request("top: must be a number from 1, like `?top=3`")],
        ),
        refusal(
            "`not found`: no such image was uploaded (for this model), or the model or the version \
            is unknown.",
            &[unknown],
        ),
        refusal(
            "`no longer queued`: the image waited for too long, and its job was discarded. A new \
            upload tries again.",
            &[Problem::dropped(example().id)],
        ),
    ];
    responses.extend(no_label());
    responses.push(refusal("`storage unavailable`: the result could not be read.", &[storage()]));
    let about_wait = "How long to wait for a pending result: `30s`, `1m`, or seconds. Without it, \
        the response is immediate.";
    let about_name = "The name of the image in the response. The `Location` of an upload has the name of \
        that upload.";
    let params = vec![
        id(),
        query("wait", about_wait, wait()),
        model(),
        top(),
        version(),
        query("name", about_name, MetaSchema::new("string")),
    ];
    let operation = operation("result", TAG, "The result of an earlier upload", ABOUT, responses);
    let mut path = path("/results/{id}", Method::GET, MetaOperation { params, ..operation });
    path.operations.extend(erase().operations);
    path
}

/// The `DELETE` method of the same path.
fn erase() -> MetaPath {
    const ABOUT: &str = "\
Deletes an image and all its results for good. A job in flight ends as usual, and its result is \
deleted, too; an upload that waits for it gets 410. A new upload of the image is classified again.

```
curl -X DELETE http://127.0.0.1:8000/results/$(sha256sum heart.jpg | cut -d ' ' -f 1)
```";
    let unknown = Problem::not_found(format!("no image {} was uploaded here", example().id));
    let responses = vec![
        answer(204, "Deleted.", Vec::new()),
        refusal("`not found`: no such image was uploaded.", &[unknown]),
        refusal("`storage unavailable`: not everything could be deleted; try again.", &[storage()]),
    ];
    let operation = operation("erase", TAG, "Delete an image and its results", ABOUT, responses);
    path("/results/{id}", Method::DELETE, MetaOperation { params: vec![id()], ..operation })
}

fn id() -> MetaOperationParam {
    let schema = MetaSchema {
        pattern: Some("^[0-9a-fA-F]{64}$".to_owned()),
        example: Some(json!(example().id)),
        ..MetaSchema::new("string")
    };
    let id = query("id", "The image: the SHA-256 of its bytes.", schema);
    MetaOperationParam { in_type: MetaParamIn::Path, required: true, ..id }
}

fn wait() -> MetaSchema {
    MetaSchema {
        pattern: Some("^[0-9]{1,6}(ms|s|m|h)?$".to_owned()),
        example: Some(json!("60s")),
        ..MetaSchema::new("string")
    }
}

fn model() -> MetaOperationParam {
    let schema = MetaSchema {
        default: Some(json!(Model::DEFAULT)),
        pattern: Some("^[0-9A-Za-z-]{1,60}$".to_owned()),
        ..MetaSchema::new("string")
    };
    query("model", "The model.", schema)
}

fn version() -> MetaOperationParam {
    let schema = MetaSchema {
        pattern: Some("^[0-9a-z]{1,64}$".to_owned()),
        example: Some(json!(example().version)),
        ..MetaSchema::new("string")
    };
    query("version", "The version of the model, as in results.", schema)
}

fn top() -> MetaOperationParam {
    let schema = MetaSchema { minimum: Some(1.0), example: Some(json!(3)), ..MetaSchema::new("integer") };
    query(
        "top",
        "Maximum number of guesses to show. Without it, all that the model's settings \
        keep.",
        schema,
    )
}

/// The body of an upload: a form or an image.
fn images() -> MetaRequest {
    let image = || MetaSchema::new_with_format("string", "binary");
    let several =
        MetaSchema { items: Some(Box::new(inline(image()))), min_items: Some(1), ..MetaSchema::new("array") };
    let usual = FIELDS[0];
    let fields = FIELDS.map(|field| {
        let about = if field == usual { "An image, or several." } else { "The same, by another name." };
        (field, inline(MetaSchema { description: Some(about), ..several.clone() }))
    });
    let one_of_them = |field| inline(MetaSchema { required: vec![field], ..MetaSchema::ANY });
    let form = MetaSchema {
        properties: fields.into(),
        any_of: FIELDS.map(one_of_them).into(),
        ..MetaSchema::new("object")
    };
    let bare = TYPES.into_iter().chain(["application/octet-stream"]);
    let content = std::iter::once(media("multipart/form-data", form))
        .chain(bare.map(|content_type| media(content_type, image())))
        .collect();
    MetaRequest { description: Some("One image, or a form with one or several."), content, required: true }
}

/// The answer to several images, described as an array because a parser of lines makes one.
fn lines() -> MetaMediaType {
    let reply = example();
    let cut_short = Problem::rejected(JobId::of(b"star.jpg"), "the JPEG ends early");
    let lines = [
        Line::Finished(example_result(&reply)),
        Line::Pending(Pending::new(JobId::of(b"ring.jpg"), Some("ring.jpg"), Model::DEFAULT, 5.0)),
        Line::Failed(Failed::new("star.jpg", &cut_short)),
    ];
    body::<Vec<Line<'_>>>("application/x-ndjson", lines)
}

fn pending() -> MetaResponse {
    let pending = Pending::new(example().id, Some("heart.jpg"), Model::DEFAULT, 5.0);
    let location = header("Location", "The address of the result.", MetaSchema::new("string"));
    MetaResponse {
        headers: vec![location, retry_after()],
        ..answer(
            202,
            "The image is stored and queued; its result is pending.",
            vec![body::<Pending<'_>>("application/json", pending)],
        )
    }
}

/// The refusals for a job that ended without a label.
fn no_label() -> [MetaResponse; 2] {
    let id = example().id;
    [
        refusal(
            "`image rejected`: it can never be classified, and the detail says why.",
            &[Problem::rejected(id, "the JPEG ends early")],
        ),
        refusal(
            "`classification failed`: the job was given up and is a dead letter. A new upload \
            tries again.",
            &[Problem::gave_up(id, "the classifier ended without a result (tried 5 times)")],
        ),
    ]
}

pub(super) fn example() -> Reply {
    let guess = |label: &str, confidence| Guess { label: label.to_owned(), confidence };
    Reply {
        v: job::VERSION,
        id: JobId::of(b"heart.jpg"),
        name: "heart.jpg".to_owned(),
        model: Model::DEFAULT.to_owned(),
        version: "0f1e2d3c4b5a6978".to_owned(),
        outcome: Outcome::Classified { top: vec![guess("heart", 0.875), guess("star", 0.0625)] },
        worker: "default-1".to_owned(),
        at: DateTime::UNIX_EPOCH,
        sent_at: None,
        queued_ms: 1.5,
        classify_ms: 8.25,
        waited_ms: 0.0,
        trace: None,
    }
}

pub(super) fn example_result(reply: &Reply) -> Finished<'_> {
    finished(reply, &reply.name, false, 10.5, 2).expect("the example is classified")
}
