//! Operations: what the router answers and the OpenAPI document tells, said once.

use super::problem::Problem;
use crate::serve::Service;
use axum::Router;
use axum::http::Method;
use axum::routing::MethodRouter;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Where all operations are.
pub const BASE: &str = "/api/v1";

/// One operation.
pub struct Operation {
    method: Method,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    handler: MethodRouter<Arc<Service>>,
    parameters: Vec<Value>,
    body: Option<Content>,
    answers: Vec<(u16, &'static str, Option<Content>)>,
    is_open: bool,
}

/// A kind of body.
enum Content {
    /// JSON of a type.
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Bytes of these media types.
    Bytes(&'static [&'static str]),
}

impl Operation {
    /// An operation that a handler of one method answers; the address lies below [`BASE`].
    pub fn new(
        method: Method,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: MethodRouter<Arc<Service>>,
    ) -> Self {
        let mut parameters = Vec::new();
        for name in path.split(['{', '}']).skip(1).step_by(2) {
            let pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$";
            parameters.push(json!({
                "name": name, "in": "path", "required": true,
                "schema": {"type": "string", "minLength": 1, "maxLength": 80, "pattern": pattern},
            }));
        }
        Self {
            method,
            path,
            id,
            summary,
            handler,
            parameters,
            body: None,
            answers: Vec::new(),
            is_open: false,
        }
    }

    /// Takes the fields of `T` in the address.
    #[must_use]
    pub fn query<T: JsonSchema>(mut self) -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        });
        let schema = settings.into_generator().into_root_schema_for::<T>();
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let mut schema = schema.clone();
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            without_null(&mut schema);
            self.parameters.push(json!({
                "name": name, "in": "query", "required": required.contains(&name.as_str()),
                "description": description, "schema": schema,
            }));
        }
        self
    }

    /// Takes a JSON body.
    #[must_use]
    pub fn json<T: JsonSchema>(mut self) -> Self {
        self.body = Some(Content::Json(SchemaGenerator::subschema_for::<T>));
        self
    }

    /// Takes bytes.
    #[must_use]
    pub fn bytes(mut self, types: &'static [&'static str]) -> Self {
        self.body = Some(Content::Bytes(types));
        self
    }

    /// May answer JSON.
    #[must_use]
    pub fn answers<T: JsonSchema>(mut self, status: u16, what: &'static str) -> Self {
        self.answers.push((status, what, Some(Content::Json(SchemaGenerator::subschema_for::<T>))));
        self
    }

    /// May answer bytes.
    #[must_use]
    pub fn sends(mut self, status: u16, what: &'static str, types: &'static [&'static str]) -> Self {
        self.answers.push((status, what, Some(Content::Bytes(types))));
        self
    }

    /// May answer without a body.
    #[must_use]
    pub fn ends(mut self, status: u16, what: &'static str) -> Self {
        self.answers.push((status, what, None));
        self
    }

    /// Needs no token.
    #[must_use]
    pub fn open(mut self) -> Self {
        self.is_open = true;
        self
    }
}

/// Routes for all of `operations`.
pub fn routes(operations: Vec<Operation>) -> Router<Arc<Service>> {
    operations.into_iter().fold(Router::new(), |router, operation| {
        router.route(&format!("{BASE}{}", operation.path), operation.handler)
    })
}

/// The paths and the components of the OpenAPI document.
pub fn describe(operations: &[Operation]) -> (Value, Value) {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths = Map::new();
    for operation in operations {
        let path = paths.entry(format!("{BASE}{}", operation.path)).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_ascii_lowercase()] = operation.describe(&mut generator, &problem);
    }
    (Value::Object(paths), Value::Object(generator.take_definitions(true)))
}

impl Operation {
    fn describe(&self, generator: &mut SchemaGenerator, problem: &Schema) -> Value {
        let mut answers = Map::new();
        for (status, what, content) in &self.answers {
            let mut answer = json!({"description": what});
            if let Some(content) = content {
                answer["content"] = content.describe(generator);
            }
            answers.insert(status.to_string(), answer);
        }
        answers.insert(
            "default".to_owned(),
            json!({"description": "What is wrong, and what to do.",
                   "content": {"application/problem+json": {"schema": problem}}}),
        );
        let mut described = json!({
            "operationId": self.id, "summary": self.summary, "parameters": self.parameters, "responses": answers,
        });
        if let Some(body) = &self.body {
            described["requestBody"] = json!({"required": true, "content": body.describe(generator)});
        }
        if self.is_open {
            described["security"] = json!([]);
        }
        described
    }
}

impl Content {
    fn describe(&self, generator: &mut SchemaGenerator) -> Value {
        match self {
            Self::Json(schema) => json!({"application/json": {"schema": schema(generator)}}),
            Self::Bytes(types) => {
                types.iter().map(|kind| ((*kind).to_owned(), json!({}))).collect::<Map<_, _>>().into()
            }
        }
    }
}

/// What may be left out of an address is left out, never null.
fn without_null(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            schema.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(one)] = choices.as_slice() {
            let one = one.clone();
            schema.remove("anyOf");
            schema.extend(one);
        }
    }
    schema.remove("default");
}
