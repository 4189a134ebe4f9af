/** The types of what payers sign (EIP-712), for tests and for the generator of vectors. */

/** Reads a list of fields as EIP-712 writes it: `address from,uint256 value`. */
const fields = (list) =>
  list.split(",").map((field) => {
    const [type, name] = field.split(" ");
    return { name, type };
  });

/** EIP-3009: a transfer by the token itself. */
export const TRANSFER_TYPES = {
  TransferWithAuthorization: fields(
    "address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce",
  ),
};

const permitTypes = (witness) => ({
  PermitWitnessTransferFrom: fields("TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Witness witness"),
  TokenPermissions: fields("address token,uint256 amount"),
  Witness: fields(witness),
});

/** Permit2: a transfer by one of x402's proxies, by scheme. */
export const PERMIT_TYPES = {
  exact: permitTypes("address to,uint256 validAfter"),
  upto: permitTypes("address to,address facilitator,uint256 validAfter"),
};

/** EIP-3009: a transfer that only its recipient can bring about. */
export const RECEIVE_TYPES = { ReceiveWithAuthorization: TRANSFER_TYPES.TransferWithAuthorization };

/** Permit2: a deposit into a channel. */
export const DEPOSIT_PERMIT_TYPES = {
  PermitWitnessTransferFrom: fields(
    "TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,DepositWitness witness",
  ),
  TokenPermissions: fields("address token,uint256 amount"),
  DepositWitness: fields("bytes32 channelId"),
};

/** Channels (`batch-settlement`), by what is hashed or signed; the digest of a configuration is the channel's id. */
export const CHANNEL_TYPES = {
  ChannelConfig: {
    ChannelConfig: fields(
      "address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt",
    ),
  },
  Voucher: { Voucher: fields("bytes32 channelId,uint128 maxClaimableAmount") },
  Refund: { Refund: fields("bytes32 channelId,uint256 nonce,uint128 amount") },
  ClaimBatch: {
    ClaimBatch: fields("ClaimEntry[] claims"),
    ClaimEntry: fields("bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed"),
  },
};
