// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Permit2, PermitTransferFrom, SignatureTransferDetails, TokenPermissions} from "./Permit2.sol";

/// A token that moves, and lets itself be moved, by signatures (EIP-3009 and EIP-2612).
interface SignedToken {
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;
    function permit(address owner, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external;
    function transfer(address to, uint256 amount) external returns (bool);
}

/// What the two collectors of deposits for channels have in common. Like BatchSettlement.sol stand-ins for the test
/// stage, with the calls, checks and errors of the deployed contracts.
abstract contract X402DepositCollector {
    address public constant x402BatchSettlement = 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003;

    error OnlyX402BatchSettlement();

    // Else anyone who sees a signed deposit could have its tokens moved without the channel being credited.
    modifier onlyBatchSettlement() {
        if (msg.sender != x402BatchSettlement) revert OnlyX402BatchSettlement();
        _;
    }
}

/// Collects by an authorization to receive (EIP-3009), whose nonce binds it to the channel.
contract ERC3009DepositCollector is X402DepositCollector {
    error SafeERC20FailedOperation(address token);

    /// @param collectorData (uint256 validAfter, uint256 validBefore, uint256 salt, bytes signature)
    function collect(address payer, address token, uint256 amount, bytes32 channelId, bytes calldata collectorData)
        external
        onlyBatchSettlement
    {
        (uint256 validAfter, uint256 validBefore, uint256 salt, bytes memory signature) =
            abi.decode(collectorData, (uint256, uint256, uint256, bytes));
        bytes32 nonce = keccak256(abi.encode(channelId, salt));
        SignedToken(token).receiveWithAuthorization(
            payer, address(this), amount, validAfter, validBefore, nonce, signature
        );
        bool agreed = SignedToken(token).transfer(x402BatchSettlement, amount);
        if (!agreed) revert SafeERC20FailedOperation(token);
    }
}

/// Collects through Permit2, whose witness binds the permit to the channel.
contract Permit2DepositCollector is X402DepositCollector {
    Permit2 public constant PERMIT2 = Permit2(0x000000000022D473030F116dDEE9F6B43aC78BA3);

    bytes32 public constant DEPOSIT_WITNESS_TYPEHASH = keccak256("DepositWitness(bytes32 channelId)");
    string public constant DEPOSIT_WITNESS_TYPE_STRING =
        "DepositWitness witness)DepositWitness(bytes32 channelId)TokenPermissions(address token,uint256 amount)";

    event EIP2612PermitFailedWithReason(address indexed token, address indexed owner, string reason);
    event EIP2612PermitFailedWithPanic(address indexed token, address indexed owner, uint256 errorCode);
    event EIP2612PermitFailedWithData(address indexed token, address indexed owner, bytes data);

    error Permit2612AmountMismatch();

    /// @param collectorData (uint256 nonce, uint256 deadline, bytes signature, bytes allowance)
    function collect(address payer, address token, uint256 amount, bytes32 channelId, bytes calldata collectorData)
        external
        onlyBatchSettlement
    {
        (uint256 nonce, uint256 deadline, bytes memory signature, bytes memory allowance) =
            abi.decode(collectorData, (uint256, uint256, bytes, bytes));
        if (allowance.length > 0) allow(payer, token, amount, allowance);
        PERMIT2.permitWitnessTransferFrom(
            PermitTransferFrom(TokenPermissions(token, amount), nonce, deadline),
            SignatureTransferDetails(x402BatchSettlement, amount),
            payer,
            keccak256(abi.encode(DEPOSIT_WITNESS_TYPEHASH, channelId)),
            DEPOSIT_WITNESS_TYPE_STRING,
            signature
        );
    }

    // Uses a signed allowance. That the token refuses it is told, and no more: there may be an allowance already.
    function allow(address payer, address token, uint256 amount, bytes memory allowance) private {
        (uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s) =
            abi.decode(allowance, (uint256, uint256, uint8, bytes32, bytes32));
        if (value != amount) revert Permit2612AmountMismatch();
        try SignedToken(token).permit(payer, address(PERMIT2), value, deadline, v, r, s) {}
        catch Error(string memory reason) {
            emit EIP2612PermitFailedWithReason(token, payer, reason);
        } catch Panic(uint256 code) {
            emit EIP2612PermitFailedWithPanic(token, payer, code);
        } catch (bytes memory data) {
            emit EIP2612PermitFailedWithData(token, payer, data);
        }
    }
}
