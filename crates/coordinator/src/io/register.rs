//! `POST /machine/register`: the answer, at once or when a person has decided.

use std::future::Future;
use std::time::Duration;

use sandd_control_client::keys::MachinePublicKey;
use sandd_control_client::wire::{RegisterRequest, RegisterResponse};

use super::shared::Shared;
use crate::error::StoreError;
use crate::membership::Registration;

/// How long a follow-up is held before it gets a new url; longer than a login lives.
const PATIENCE: Duration = Duration::from_secs(16 * 60);

/// Answers a registration; nothing when `gone` came first.
pub(crate) async fn answer(
    shared: &Shared,
    machine: &MachinePublicKey,
    request: &RegisterRequest,
    gone: impl Future<Output = ()>,
) -> Result<Option<RegisterResponse>, StoreError> {
    let mut decisions = shared.decisions();
    let patience = tokio::time::sleep(PATIENCE);
    tokio::pin!(gone, patience);
    loop {
        decisions.borrow_and_update();
        let outcome = shared
            .change_durably(|core, now| core.membership.register(machine, request, now))
            .await?;
        match outcome {
            Registration::Answer(response) => return Ok(Some(*response)),
            Registration::Wait => tokio::select! {
                changed = decisions.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                }
                () = &mut patience => {}
                () = &mut gone => return Ok(None),
            },
        }
    }
}
