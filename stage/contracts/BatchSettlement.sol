// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// An ERC-20 token, as far as this file needs one.
interface HeldToken {
    function balanceOf(address owner) external view returns (uint256);
    function transfer(address to, uint256 amount) external returns (bool);
}

/// A wallet that is a contract (ERC-1271).
interface SigningContract {
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4);
}

/// What brings the tokens of a deposit here.
interface DepositCollector {
    function collect(address payer, address token, uint256 amount, bytes32 channelId, bytes calldata collectorData)
        external;
}

/// Channels of x402's scheme `batch-settlement`: a payer deposits once, signs a growing total, and the receiver's side
/// claims what was signed. A stand-in for the test stage, with the calls, typed data, errors and events of the deployed
/// contract. Its code is put at the canonical address without a constructor having run: nothing here is immutable or
/// initialised, and the domain is computed with each call.
contract BatchSettlement {
    /// All that makes a channel; its digest is the channel's id.
    struct ChannelConfig {
        address payer;
        address payerAuthorizer;
        address receiver;
        address receiverAuthorizer;
        address token;
        uint40 withdrawDelay;
        bytes32 salt;
    }

    struct ChannelState {
        /// All deposits, less what went back to the payer. Claims do not lower it.
        uint128 balance;
        uint128 totalClaimed;
    }

    struct WithdrawalState {
        uint128 amount;
        /// Seconds since the epoch; 0 if none is pending.
        uint40 initiatedAt;
    }

    struct ReceiverState {
        uint128 totalClaimed;
        uint128 totalSettled;
    }

    struct Voucher {
        ChannelConfig channel;
        uint128 maxClaimableAmount;
    }

    struct VoucherClaim {
        Voucher voucher;
        bytes signature;
        uint128 totalClaimed;
    }

    event ChannelCreated(bytes32 indexed channelId, ChannelConfig config);
    event ChannelClosed(bytes32 indexed channelId, ChannelConfig config);
    event Deposited(bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance);
    event Claimed(bytes32 indexed channelId, address indexed sender, uint128 claimAmount, uint128 newTotalClaimed);
    event Settled(address indexed receiver, address indexed token, address indexed sender, uint128 amount);
    event Refunded(bytes32 indexed channelId, address indexed sender, uint128 amount);
    event WithdrawInitiated(bytes32 indexed channelId, uint128 amount, uint40 finalizeAfter);
    event WithdrawFinalized(bytes32 indexed channelId, address indexed sender, uint128 amount);

    error InvalidChannel();
    error WithdrawDelayOutOfRange();
    error ZeroDeposit();
    error InvalidCollector();
    error DepositOverflow();
    error DepositCollectionFailed();
    error EmptyBatch();
    error NotAuthorizedToClaim();
    error NotReceiverAuthorizer();
    error ClaimExceedsCeiling();
    error ClaimExceedsBalance();
    error InvalidSignature();
    error NothingToWithdraw();
    error WithdrawalAlreadyPending();
    error WithdrawAmountExceedsAvailable();
    error NotAuthorizedToFinalizeWithdraw();
    error WithdrawalNotPending();
    error WithdrawDelayNotElapsed();
    error NotAuthorizedToRefund();
    error InvalidRefundNonce();
    error ZeroRefund();
    // Those of the libraries that the deployed contract is built on.
    error ECDSAInvalidSignature();
    error ECDSAInvalidSignatureLength(uint256 length);
    error ECDSAInvalidSignatureS(bytes32 s);
    error ReentrancyGuardReentrantCall();
    error SafeERC20FailedOperation(address token);

    uint40 public constant MIN_WITHDRAW_DELAY = 15 minutes;
    uint40 public constant MAX_WITHDRAW_DELAY = 30 days;

    bytes32 public constant CHANNEL_CONFIG_TYPEHASH = keccak256(
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
    );
    bytes32 public constant VOUCHER_TYPEHASH = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)");
    bytes32 public constant REFUND_TYPEHASH = keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)");
    bytes32 public constant CLAIM_ENTRY_TYPEHASH =
        keccak256("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)");
    bytes32 public constant CLAIM_BATCH_TYPEHASH = keccak256(
        "ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
    );

    bytes32 private constant DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    // Half of the order of secp256k1: a signature with a higher `s` has a twin with a lower one.
    uint256 private constant HIGHEST_S = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;

    mapping(bytes32 channelId => ChannelState) public channels;
    mapping(bytes32 channelId => WithdrawalState) public pendingWithdrawals;
    mapping(bytes32 channelId => uint256) public refundNonce;
    mapping(address receiver => mapping(address token => ReceiverState)) public receivers;

    bool private transient entered;

    modifier nonReentrant() {
        if (entered) revert ReentrancyGuardReentrantCall();
        entered = true;
        _;
        entered = false;
    }

    /// Makes several calls of this contract in one transaction: all of them, or none.
    function multicall(bytes[] calldata data) external returns (bytes[] memory results) {
        results = new bytes[](data.length);
        for (uint256 i = 0; i < data.length; i++) {
            (bool done, bytes memory answer) = address(this).delegatecall(data[i]);
            if (!done) passOn(answer);
            results[i] = answer;
        }
    }

    // ---- Deposits ----

    /// Adds to a channel. How the tokens come here is the collector's business; that they came is seen by the balance.
    function deposit(ChannelConfig calldata config, uint128 amount, address collector, bytes calldata collectorData)
        external
        nonReentrant
    {
        requireUsable(config);
        if (amount == 0) revert ZeroDeposit();
        if (collector == address(0)) revert InvalidCollector();
        bytes32 id = getChannelId(config);
        ChannelState storage state = channels[id];
        if (amount > type(uint128).max - state.balance) revert DepositOverflow();
        bool fresh = state.balance == 0 && state.totalClaimed == 0;
        uint128 balance = state.balance + amount;
        state.balance = balance;

        HeldToken token = HeldToken(config.token);
        uint256 expected = token.balanceOf(address(this)) + amount;
        DepositCollector(collector).collect(config.payer, config.token, amount, id, collectorData);
        if (token.balanceOf(address(this)) != expected) revert DepositCollectionFailed();

        if (fresh) emit ChannelCreated(id, config);
        emit Deposited(id, msg.sender, amount, balance);
    }

    function requireUsable(ChannelConfig calldata config) private pure {
        bool named = config.payer != address(0) && config.receiver != address(0)
            && config.receiverAuthorizer != address(0) && config.token != address(0);
        if (!named) revert InvalidChannel();
        if (config.withdrawDelay < MIN_WITHDRAW_DELAY || config.withdrawDelay > MAX_WITHDRAW_DELAY) {
            revert WithdrawDelayOutOfRange();
        }
    }

    // ---- Claims ----

    /// Claims for channels of which the caller is the receiver or its authorizer: all rows, or none.
    function claim(VoucherClaim[] calldata voucherClaims) external nonReentrant {
        if (voucherClaims.length == 0) revert EmptyBatch();
        for (uint256 i = 0; i < voucherClaims.length; i++) {
            if (!isReceiversSide(voucherClaims[i].voucher.channel)) revert NotAuthorizedToClaim();
            claimOne(voucherClaims[i]);
        }
    }

    /// Claims for channels that have one authorizer, by its signature over all rows; anyone may send it.
    function claimWithSignature(VoucherClaim[] calldata voucherClaims, bytes calldata authorizerSignature)
        external
        nonReentrant
    {
        if (voucherClaims.length == 0) revert EmptyBatch();
        address authorizer = voucherClaims[0].voucher.channel.receiverAuthorizer;
        requireSignature(authorizer, getClaimBatchDigest(voucherClaims), authorizerSignature);
        for (uint256 i = 0; i < voucherClaims.length; i++) {
            if (voucherClaims[i].voucher.channel.receiverAuthorizer != authorizer) revert NotReceiverAuthorizer();
            claimOne(voucherClaims[i]);
        }
    }

    function claimOne(VoucherClaim calldata row) private {
        ChannelConfig calldata config = row.voucher.channel;
        bytes32 id = getChannelId(config);
        ChannelState storage state = channels[id];
        uint128 before = state.totalClaimed;
        // What was claimed already, or by a later voucher, is no error: a claim may be sent again.
        if (row.totalClaimed <= before) return;
        if (row.totalClaimed > row.voucher.maxClaimableAmount) revert ClaimExceedsCeiling();
        if (row.totalClaimed > state.balance) revert ClaimExceedsBalance();
        requireVoucherSignature(config, getVoucherDigest(id, row.voucher.maxClaimableAmount), row.signature);

        state.totalClaimed = row.totalClaimed;
        receivers[config.receiver][config.token].totalClaimed += row.totalClaimed - before;
        emit Claimed(id, msg.sender, row.totalClaimed - before, row.totalClaimed);
    }

    /// Pays a receiver what was claimed for it and has not been paid out; anyone may call it.
    function settle(address receiver, address token) external nonReentrant {
        ReceiverState storage state = receivers[receiver][token];
        uint128 amount = state.totalClaimed - state.totalSettled;
        if (amount == 0) return;
        state.totalSettled = state.totalClaimed;
        pay(token, receiver, amount);
        emit Settled(receiver, token, msg.sender, amount);
    }

    // ---- Refunds: what the receiver's side gives back ----

    function refund(ChannelConfig calldata config, uint128 amount) external nonReentrant {
        if (!isReceiversSide(config)) revert NotAuthorizedToRefund();
        giveBack(config, getChannelId(config), amount);
    }

    /// Refunds by the authorizer's signature, which is good for one nonce; anyone may send it.
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata receiverAuthorizerSignature
    ) external nonReentrant {
        bytes32 id = getChannelId(config);
        if (nonce != refundNonce[id]) revert InvalidRefundNonce();
        requireSignature(config.receiverAuthorizer, getRefundDigest(id, nonce, amount), receiverAuthorizerSignature);
        giveBack(config, id, amount);
    }

    function giveBack(ChannelConfig calldata config, bytes32 id, uint128 amount) private {
        if (amount == 0) revert ZeroRefund();
        // Used up even where nothing is left to give back.
        refundNonce[id] += 1;
        uint128 given = atMostUnclaimed(id, amount);
        if (given == 0) return;
        channels[id].balance -= given;

        WithdrawalState storage withdrawal = pendingWithdrawals[id];
        if (given >= withdrawal.amount) {
            delete pendingWithdrawals[id];
        } else {
            withdrawal.amount -= given;
        }
        emit Refunded(id, msg.sender, given);
        tellIfClosed(config, id);
        pay(config.token, config.payer, given);
    }

    // ---- Withdrawals: what the payer takes back without being asked, after a delay ----

    /// Begins a withdrawal. Vouchers that are not claimed before its end do not hold it up.
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external nonReentrant {
        if (!isPayersSide(config)) revert InvalidChannel();
        if (amount == 0) revert NothingToWithdraw();
        bytes32 id = getChannelId(config);
        if (pendingWithdrawals[id].initiatedAt != 0) revert WithdrawalAlreadyPending();
        if (amount > atMostUnclaimed(id, amount)) revert WithdrawAmountExceedsAvailable();
        uint40 now_ = uint40(block.timestamp);
        pendingWithdrawals[id] = WithdrawalState(amount, now_);
        emit WithdrawInitiated(id, amount, now_ + config.withdrawDelay);
    }

    /// Ends a withdrawal whose delay has passed; what was claimed in the meantime is not paid out.
    function finalizeWithdraw(ChannelConfig calldata config) external nonReentrant {
        if (!isPayersSide(config)) revert NotAuthorizedToFinalizeWithdraw();
        bytes32 id = getChannelId(config);
        WithdrawalState memory withdrawal = pendingWithdrawals[id];
        if (withdrawal.initiatedAt == 0) revert WithdrawalNotPending();
        if (block.timestamp < uint256(withdrawal.initiatedAt) + config.withdrawDelay) revert WithdrawDelayNotElapsed();
        delete pendingWithdrawals[id];
        uint128 taken = atMostUnclaimed(id, withdrawal.amount);
        channels[id].balance -= taken;
        emit WithdrawFinalized(id, msg.sender, taken);
        tellIfClosed(config, id);
        if (taken > 0) pay(config.token, config.payer, taken);
    }

    // ---- What is hashed and signed ----

    function getChannelId(ChannelConfig calldata config) public view returns (bytes32) {
        return digestOf(keccak256(abi.encode(CHANNEL_CONFIG_TYPEHASH, config)));
    }

    function getVoucherDigest(bytes32 channelId, uint128 maxClaimableAmount) public view returns (bytes32) {
        return digestOf(keccak256(abi.encode(VOUCHER_TYPEHASH, channelId, maxClaimableAmount)));
    }

    function getRefundDigest(bytes32 channelId, uint256 nonce, uint128 amount) public view returns (bytes32) {
        return digestOf(keccak256(abi.encode(REFUND_TYPEHASH, channelId, nonce, amount)));
    }

    function getClaimBatchDigest(VoucherClaim[] calldata voucherClaims) public view returns (bytes32) {
        bytes32[] memory entries = new bytes32[](voucherClaims.length);
        for (uint256 i = 0; i < entries.length; i++) {
            VoucherClaim calldata row = voucherClaims[i];
            bytes32 id = getChannelId(row.voucher.channel);
            entries[i] =
                keccak256(abi.encode(CLAIM_ENTRY_TYPEHASH, id, row.voucher.maxClaimableAmount, row.totalClaimed));
        }
        return digestOf(keccak256(abi.encode(CLAIM_BATCH_TYPEHASH, keccak256(abi.encodePacked(entries)))));
    }

    function digestOf(bytes32 message) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN_TYPE, keccak256("x402 Batch Settlement"), keccak256("1"), block.chainid, address(this))
        );
        return keccak256(abi.encodePacked(hex"1901", domain, message));
    }

    // ---- Signatures ----

    // A key that was named for vouchers signs by itself, be it a contract's address or not. The payer may be a contract.
    function requireVoucherSignature(ChannelConfig calldata config, bytes32 digest, bytes calldata signature)
        private
        view
    {
        if (config.payerAuthorizer == address(0)) return requireSignature(config.payer, digest, signature);
        if (signature.length != 65) revert ECDSAInvalidSignatureLength(signature.length);
        bytes32 s = bytes32(signature[32:64]);
        if (uint256(s) > HIGHEST_S) revert ECDSAInvalidSignatureS(s);
        address signer = recovered(digest, signature);
        if (signer == address(0)) revert ECDSAInvalidSignature();
        if (signer != config.payerAuthorizer) revert InvalidSignature();
    }

    function requireSignature(address signer, bytes32 digest, bytes calldata signature) private view {
        bool valid = signer.code.length > 0
            ? isSignedByContract(signer, digest, signature)
            : signature.length == 65 && uint256(bytes32(signature[32:64])) <= HIGHEST_S && signer != address(0)
                && recovered(digest, signature) == signer;
        if (!valid) revert InvalidSignature();
    }

    function recovered(bytes32 digest, bytes calldata signature) private pure returns (address) {
        return ecrecover(digest, uint8(signature[64]), bytes32(signature[:32]), bytes32(signature[32:64]));
    }

    // A contract that fails, or answers something else than the word, has not signed.
    function isSignedByContract(address wallet, bytes32 digest, bytes calldata signature) private view returns (bool) {
        (bool done, bytes memory answer) =
            wallet.staticcall(abi.encodeCall(SigningContract.isValidSignature, (digest, signature)));
        return done && answer.length >= 32 && bytes32(answer) == bytes32(SigningContract.isValidSignature.selector);
    }

    // ---- The rest ----

    function isReceiversSide(ChannelConfig calldata config) private view returns (bool) {
        return msg.sender == config.receiver || msg.sender == config.receiverAuthorizer;
    }

    function isPayersSide(ChannelConfig calldata config) private view returns (bool) {
        return msg.sender == config.payer || msg.sender == config.payerAuthorizer;
    }

    function atMostUnclaimed(bytes32 id, uint128 amount) private view returns (uint128) {
        uint128 unclaimed = channels[id].balance - channels[id].totalClaimed;
        return amount < unclaimed ? amount : unclaimed;
    }

    function tellIfClosed(ChannelConfig calldata config, bytes32 id) private {
        if (channels[id].balance == 0 && channels[id].totalClaimed == 0) emit ChannelClosed(id, config);
    }

    function pay(address token, address to, uint128 amount) private {
        (bool done, bytes memory answer) = token.call(abi.encodeCall(HeldToken.transfer, (to, amount)));
        if (!done) passOn(answer);
        bool agreed = answer.length == 0 ? token.code.length > 0 : abi.decode(answer, (bool));
        if (!agreed) revert SafeERC20FailedOperation(token);
    }

    function passOn(bytes memory failure) private pure {
        assembly ("memory-safe") {
            revert(add(failure, 32), mload(failure))
        }
    }
}
