//! Names of block contents: a hash of all tokens up to the block's end, and of what else decides its bytes.

use crate::TokenId;

/// Who may share blocks, and what beside tokens decides their content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CacheScope {
    /// Requests of different salts share nothing: one tenant cannot find out by timing what another has asked.
    pub salt: String,
    /// Whatever else the content depends on, e.g. the digest of an image in the prompt.
    pub extra_keys: Vec<String>,
}

/// Hash of a prefix that ends with a full block. Strong, so that nobody can make one prefix pass for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash([u8; blake3::OUT_LEN]);

impl BlockHash {
    /// The parent of a sequence's first block.
    pub fn root(scope: &CacheScope) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in std::iter::once(&scope.salt).chain(&scope.extra_keys) {
            // With its length, so that two lists never look alike when put together.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self(hasher.finalize().into())
    }

    /// The hash of a block with these tokens, after the block of this hash.
    pub fn next(&self, tokens: &[TokenId]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        Self(hasher.finalize().into())
    }

    /// The hashes of all full blocks of `tokens`.
    pub fn chain(scope: &CacheScope, tokens: &[TokenId], block_size: usize) -> Vec<Self> {
        let mut parent = Self::root(scope);
        tokens
            .chunks_exact(block_size)
            .map(|block| {
                parent = parent.next(block);
                parent
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(salt: &str, extra_keys: &[&str]) -> CacheScope {
        CacheScope { salt: salt.to_owned(), extra_keys: extra_keys.iter().map(|key| (*key).to_owned()).collect() }
    }

    #[test]
    fn a_hash_depends_on_all_tokens_before_and_on_the_scope() {
        let chain = |scope: &CacheScope, tokens: &[TokenId]| BlockHash::chain(scope, tokens, 2);
        let plain = scope("", &[]);
        let hashes = chain(&plain, &[1, 2, 3, 4, 5]);
        assert_eq!(hashes.len(), 2, "only full blocks have one");
        assert_eq!(hashes, chain(&plain, &[1, 2, 3, 4]));
        assert_eq!(hashes[0], chain(&plain, &[1, 2, 9, 9])[0]);
        assert_ne!(hashes[1], chain(&plain, &[9, 2, 3, 4])[1]);
        let scopes = [plain, scope("a", &[]), scope("", &["a"]), scope("", &["", "a"]), scope("a", &["b"])];
        let firsts: std::collections::HashSet<_> = scopes.iter().map(|scope| chain(scope, &[1, 2])[0]).collect();
        assert_eq!(firsts.len(), scopes.len());
    }
}
