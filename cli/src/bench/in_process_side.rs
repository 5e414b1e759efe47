//! Our engine in this process, asked over gRPC without a socket.

use std::time::Instant;

use anyhow::{Context, bail};
use kindling_proto::v1::generate_request::Input;
use kindling_proto::v1::generate_response::Event;
use kindling_proto::v1::inference_client::InferenceClient;
use kindling_proto::v1::{GenerateRequest, Sampling, Stopping, TokenIds, TokenizeRequest, tokenize_request};
use tonic::transport::Channel;

use crate::bench::record::Record;
use crate::bench::side::Work;

/// Bytes of one message: token ids of the longest prompts, five bytes each, are well below.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A runtime's client.
#[derive(Clone)]
pub struct InProcessSide {
    client: InferenceClient<Channel>,
}

impl InProcessSide {
    /// Of a runtime that answers on this channel.
    pub fn new(channel: Channel) -> Self {
        let client = InferenceClient::new(channel);
        let client = client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { client }
    }

    /// Token ids of a text, with what the tokenizer adds by itself.
    ///
    /// # Errors
    /// If the runtime refuses it.
    pub async fn tokenize(&self, text: String) -> anyhow::Result<Vec<u32>> {
        let request = TokenizeRequest { input: Some(tokenize_request::Input::Text(text)), add_special_tokens: None };
        Ok(self.client.clone().tokenize(request).await.context("tokenize a prompt")?.into_inner().token_ids)
    }

    /// As [`crate::bench::side::Side::run`].
    pub async fn run(&self, work: &Work) -> anyhow::Result<Vec<Record>> {
        let streams = work.prompts.iter().map(|prompt| self.stream(prompt.token_ids.clone(), work.max_tokens));
        futures::future::try_join_all(streams).await
    }

    async fn stream(&self, token_ids: Vec<u32>, max_tokens: usize) -> anyhow::Result<Record> {
        let request = GenerateRequest {
            input: Some(Input::TokenIds(TokenIds { ids: token_ids })),
            sampling: Some(Sampling { temperature: Some(0.0), ..Sampling::default() }),
            stopping: Some(Stopping {
                max_tokens: u32::try_from(max_tokens).ok(),
                ignore_eos: true,
                ..Stopping::default()
            }),
            ..GenerateRequest::default()
        };
        let mut record = Record {
            started: Instant::now(),
            pieces: Vec::with_capacity(max_tokens),
            prompt_tokens: 0,
            cached_tokens: None,
            completion_tokens: 0,
        };
        let mut stream = self.client.clone().generate(request).await.context("ask the engine")?.into_inner();
        while let Some(response) = stream.message().await.context("read the engine's answer")? {
            match response.event {
                Some(Event::Delta(delta)) if !delta.token_ids.is_empty() => {
                    record.pieces.push((Instant::now(), delta.token_ids.len() as f64));
                }
                Some(Event::Finish(finish)) => {
                    let usage = finish.usage.context("the engine's answer should end with its usage")?;
                    record.prompt_tokens = usage.prompt_tokens.into();
                    record.cached_tokens = Some(usage.cached_tokens.into());
                    record.completion_tokens = usage.completion_tokens.into();
                }
                _ => {}
            }
        }
        if record.completion_tokens == 0 {
            bail!("the engine's answer ended early");
        }
        Ok(record)
    }
}
