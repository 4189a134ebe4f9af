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
