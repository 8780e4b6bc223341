//! Building blocks of the description.

use poem::http::Method;
use poem_openapi::{
    registry::{
        MetaHeader, MetaMediaType, MetaOperation, MetaOperationParam, MetaParamIn, MetaPath, MetaResponse,
        MetaResponses, MetaSchema, MetaSchemaRef, MetaSecurityScheme, Registry,
    },
    types::Type,
};
use serde::Serialize;
use serde_json::Value;

use crate::problem::{Document, Problem};

/// The name of the security scheme for tokens.
const BEARER: &str = "bearer";

/// Registers what all paths use.
pub(super) fn register(registry: &mut Registry) {
    Document::register(registry);
}

/// Registers what the [`guarded`] paths use.
pub(super) fn register_token(registry: &mut Registry) {
    registry.create_security_scheme(
        BEARER,
        MetaSecurityScheme {
            ty: "http",
            description: Some("A token, if this service needs one."),
            name: None,
            key_in: None,
            scheme: Some("bearer"),
            bearer_format: None,
            flows: None,
            openid_connect_url: None,
        },
    );
}

/// A path with one method.
pub(super) fn path(path: &str, method: Method, operation: MetaOperation) -> MetaPath {
    let mut operation = MetaOperation { method, ..operation };
    operation.responses.responses.sort_by_key(|response| response.status);
    MetaPath { path: path.to_owned(), operations: vec![operation] }
}

/// Adds the refusals of `access.rs` to a path. The token is optional, because a service may need
/// none.
pub(super) fn guarded(mut path: MetaPath) -> MetaPath {
    for operation in &mut path.operations {
        let responses = &mut operation.responses.responses;
        responses.push(unauthorized());
        if !responses.iter().any(|response| response.status == Some(429)) {
            let description = "`too many requests`: this address or token exceeds its rate.";
            responses.push(refusal(description, &[too_often()]));
        }
        responses.sort_by_key(|response| response.status);
        operation.security = vec![[].into(), [(BEARER, vec![])].into()];
    }
    path
}

/// The example of an exceeded rate.
pub(super) fn too_often() -> Problem {
    Problem::too_often("this address", 2)
}

fn unauthorized() -> MetaResponse {
    let scheme = header("WWW-Authenticate", "How a token is sent.", MetaSchema::new("string"));
    let description = "`unauthorized`: this service needs a valid token.";
    MetaResponse { headers: vec![scheme], ..refusal(description, &[Problem::no_token()]) }
}

/// An operation without parameters.
pub(super) fn operation(
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    description: &'static str,
    responses: Vec<MetaResponse>,
) -> MetaOperation {
    MetaOperation {
        method: Method::GET,
        tags: vec![tag],
        summary: Some(summary),
        description: Some(description),
        external_docs: None,
        params: Vec::new(),
        request: None,
        responses: MetaResponses { responses },
        deprecated: false,
        security: Vec::new(),
        operation_id: Some(id),
        code_samples: Vec::new(),
    }
}

/// An optional query parameter.
pub(super) fn query(name: &str, description: &str, schema: MetaSchema) -> MetaOperationParam {
    MetaOperationParam {
        name: name.to_owned(),
        schema: inline(schema),
        in_type: MetaParamIn::Query,
        description: Some(description.to_owned()),
        required: false,
        deprecated: false,
        explode: true,
        style: None,
    }
}

/// An answer with this status and one of these bodies.
pub(super) fn answer(status: u16, description: &'static str, content: Vec<MetaMediaType>) -> MetaResponse {
    MetaResponse { description, status: Some(status), status_range: None, content, headers: Vec::new() }
}

/// A body of a type, with an example.
pub(super) fn body<T: Type>(content_type: &'static str, example: impl Serialize) -> MetaMediaType {
    media(content_type, with_example(T::schema_ref(), example))
}

/// A body of plain text.
pub(super) fn text(content_type: &'static str, example: &str) -> MetaMediaType {
    body::<String>(content_type, example)
}

/// A body of any shape.
pub(super) fn media(content_type: &'static str, schema: MetaSchema) -> MetaMediaType {
    MetaMediaType { content_type, schema: inline(schema) }
}

/// A header that is always present in an answer.
pub(super) fn header(name: &str, description: &str, schema: MetaSchema) -> MetaHeader {
    MetaHeader {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        required: true,
        deprecated: false,
        schema: inline(schema),
    }
}

/// `Retry-After`, always in seconds.
pub(super) fn retry_after() -> MetaHeader {
    let schema = MetaSchema { minimum: Some(0.0), ..MetaSchema::new("integer") };
    header("Retry-After", "Seconds after which to try again.", schema)
}

/// The example for a store or queue that cannot be reached.
pub(super) fn storage() -> Problem {
    Problem::backend(&eirs_platform::Error::unavailable("an example", "an example"))
}

/// Refusals with the same status. The first is the example.
pub(super) fn refusal(description: &'static str, problems: &[Problem]) -> MetaResponse {
    let (status, document) = (problems[0].status.as_u16(), problems[0].document());
    assert!(problems.iter().all(|problem| problem.status.as_u16() == status), "one answer has one status");
    let content = vec![body::<Document<'_>>("application/problem+json", document)];
    let always = problems.iter().all(|problem| problem.retry_after_s().is_some());
    let headers = if always { vec![retry_after()] } else { Vec::new() };
    MetaResponse { headers, ..answer(status, description, content) }
}

/// An anonymous schema.
pub(super) fn inline(schema: MetaSchema) -> MetaSchemaRef {
    MetaSchemaRef::Inline(Box::new(schema))
}

/// Adds an example. In OpenAPI 3.0 a reference has no siblings, so it is wrapped in `allOf`.
fn with_example(schema: MetaSchemaRef, example: impl Serialize) -> MetaSchema {
    let example = Some(serde_json::to_value(example).unwrap_or(Value::Null));
    match schema {
        MetaSchemaRef::Inline(schema) => MetaSchema { example, ..*schema },
        reference => MetaSchema { all_of: vec![reference], example, ..MetaSchema::ANY },
    }
}
