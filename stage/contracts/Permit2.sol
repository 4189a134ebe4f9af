// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// An ERC-20 token, as far as this file needs one.
interface Token {
    function transferFrom(address from, address to, uint256 amount) external returns (bool);
}

/// A wallet that is a contract (ERC-1271).
interface ContractWallet {
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4);
}

/// The most of a token that may be moved.
struct TokenPermissions {
    address token;
    uint256 amount;
}

/// What the owner signs, next to the spender and the witness.
struct PermitTransferFrom {
    TokenPermissions permitted;
    uint256 nonce;
    uint256 deadline;
}

/// What the spender makes of it.
struct SignatureTransferDetails {
    address to;
    uint256 requestedAmount;
}

/// Signed transfers with a witness, as Uniswap's Permit2 has them: the same calls, typed data, order of checks and
/// errors. The rest of Permit2 (batches, allowances with an expiry) is missing. Written for the test stage: its code
/// is put at the canonical address without a constructor having run, so nothing here is immutable or initialised.
contract Permit2 {
    error SignatureExpired(uint256 signatureDeadline);
    error InvalidNonce();
    error InvalidAmount(uint256 maxAmount);
    error InvalidSignatureLength();
    error InvalidSignature();
    error InvalidSigner();
    error InvalidContractSignature();

    event UnorderedNonceInvalidation(address indexed owner, uint256 word, uint256 mask);

    bytes32 private constant DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)");
    bytes32 private constant PERMISSIONS_TYPE = keccak256("TokenPermissions(address token,uint256 amount)");
    // The type's definition goes on with the witness, whose type the spender alone knows.
    string private constant PERMIT_TYPE_HEAD =
        "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,";

    /// The used nonces of an owner: bit `nonce % 256` of word `nonce / 256`.
    mapping(address owner => mapping(uint256 word => uint256 bits)) public nonceBitmap;

    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPE, keccak256("Permit2"), block.chainid, address(this)));
    }

    /// Moves tokens by the owner's signature; the caller is the spender whom it names.
    function permitWitnessTransferFrom(
        PermitTransferFrom calldata permit,
        SignatureTransferDetails calldata details,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external {
        if (block.timestamp > permit.deadline) revert SignatureExpired(permit.deadline);
        if (details.requestedAmount > permit.permitted.amount) revert InvalidAmount(permit.permitted.amount);
        useNonce(owner, permit.nonce);
        requireSignature(owner, digestOf(permit, witness, witnessTypeString), signature);
        moveTokens(permit.permitted.token, owner, details);
    }

    /// Gives up nonces of the caller before they are used.
    function invalidateUnorderedNonces(uint256 word, uint256 mask) external {
        nonceBitmap[msg.sender][word] |= mask;
        emit UnorderedNonceInvalidation(msg.sender, word, mask);
    }

    function useNonce(address owner, uint256 nonce) private {
        uint256 bit = 1 << (nonce % 256);
        uint256 bits = nonceBitmap[owner][nonce / 256];
        if (bits & bit != 0) revert InvalidNonce();
        nonceBitmap[owner][nonce / 256] = bits | bit;
    }

    // Tokens differ in what they return and in how they fail; the error is one, whatever the token says.
    function moveTokens(address token, address owner, SignatureTransferDetails calldata details) private {
        (bool done, bytes memory answer) =
            token.call(abi.encodeCall(Token.transferFrom, (owner, details.to, details.requestedAmount)));
        require(done, "TRANSFER_FROM_FAILED");
        bool agreed = answer.length == 0 ? token.code.length > 0 : abi.decode(answer, (bool));
        require(agreed, "TRANSFER_FROM_FAILED");
    }

    function digestOf(PermitTransferFrom calldata permit, bytes32 witness, string calldata witnessTypeString)
        private
        view
        returns (bytes32)
    {
        bytes32 permitType = keccak256(abi.encodePacked(PERMIT_TYPE_HEAD, witnessTypeString));
        bytes32 permitted = keccak256(abi.encode(PERMISSIONS_TYPE, permit.permitted));
        bytes32 message =
            keccak256(abi.encode(permitType, permitted, msg.sender, permit.nonce, permit.deadline, witness));
        return keccak256(abi.encodePacked(hex"1901", DOMAIN_SEPARATOR(), message));
    }

    function requireSignature(address owner, bytes32 digest, bytes calldata signature) private view {
        if (owner.code.length > 0) {
            bytes4 answer = ContractWallet(owner).isValidSignature(digest, signature);
            if (answer != ContractWallet.isValidSignature.selector) revert InvalidContractSignature();
            return;
        }
        bytes32 r;
        bytes32 s;
        uint8 v;
        if (signature.length == 65) {
            (r, s, v) = (bytes32(signature[:32]), bytes32(signature[32:64]), uint8(signature[64]));
        } else if (signature.length == 64) {
            // ERC-2098: the recovery bit is the highest of `s`.
            uint256 packed = uint256(bytes32(signature[32:]));
            (r, s, v) = (bytes32(signature[:32]), bytes32(packed & (type(uint256).max >> 1)), uint8(packed >> 255) + 27);
        } else {
            revert InvalidSignatureLength();
        }
        // As in the original, a high `s` is taken: the nonce, not the signature, is what makes a permit single-use.
        address signer = ecrecover(digest, v, r, s);
        if (signer == address(0)) revert InvalidSignature();
        if (signer != owner) revert InvalidSigner();
    }
}
