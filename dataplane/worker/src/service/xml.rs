//! Small request bodies: XML documents, collected whole and checked like any
//! payload.

use quickwater_engine::World;
use quickwater_engine::io::Body;
use quickwater_s3::S3Error;
use quickwater_s3::body::{PayloadDecoder, PayloadPlan};

use super::answer::Refusal;
use super::body::ObjectBody;
use super::dispatch::Call;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    /// Receives the XML document of a request.
    pub(super) async fn document(&self, call: Call<'_, '_, '_>) -> Result<Vec<u8>, Refusal> {
        let plan = self.plan(&call)?;
        // A large document is held whole: within the budget like any body.
        let _permit = self.enter(plan.length).await?;
        let decoder = PayloadDecoder::new(plan);
        let disk = self.engine.disk().clone();
        let mut body = ObjectBody::new(call.body, decoder, disk, &self.hashing);
        let mut document = Vec::new();
        while let Some(piece) = body.next().await? {
            document.extend_from_slice(piece.as_slice());
        }
        body.finish()?;
        Ok(document)
    }

    /// What the payload looks like and promises; its length is within limits.
    pub(super) fn plan(&self, call: &Call<'_, '_, '_>) -> Result<PayloadPlan, S3Error> {
        PayloadPlan::new(call.request, call.identity, &self.config.dialect)
    }
}
