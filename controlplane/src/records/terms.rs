//! The row of the control processes that wrote the metadata.

use quickwater_rpc::records as wire;

use super::{RecordError, damaged, decode, encode};

const ROW: &str = "terms";

/// A control process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Its random name.
    pub id: u128,
    /// The version of the store when it began.
    pub began: u64,
}

/// The control processes that wrote the metadata, the first one first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Those that are remembered.
    pub terms: Vec<Term>,
    /// Terms of other metadata that an operator gave up for these.
    pub disowned: Vec<u128>,
}

/// Makes the row.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_terms(terms: &Terms) -> Result<Vec<u8>, RecordError> {
    let bytes = |id: &u128| id.to_be_bytes().to_vec();
    let term = |term: &Term| wire::Term {
        id: bytes(&term.id),
        began: term.began,
    };
    let row = wire::TermsRow {
        terms: terms.terms.iter().map(term).collect(),
        disowned: terms.disowned.iter().map(bytes).collect(),
    };
    encode(ROW, &row)
}

/// Reads the row.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_terms(value: &[u8]) -> Result<Terms, RecordError> {
    let row: wire::TermsRow = decode(ROW, value)?;
    let id = |bytes: &[u8]| {
        let bytes = bytes.try_into();
        let bytes = bytes.map_err(|_| damaged(ROW, "a term is not 16 bytes long"))?;
        Ok(u128::from_be_bytes(bytes))
    };
    let terms = row.terms.iter().map(|term| {
        Ok(Term {
            id: id(&term.id)?,
            began: term.began,
        })
    });
    let disowned = row.disowned.iter().map(|bytes| id(bytes));
    Ok(Terms {
        terms: terms.collect::<Result<_, RecordError>>()?,
        disowned: disowned.collect::<Result<_, RecordError>>()?,
    })
}
