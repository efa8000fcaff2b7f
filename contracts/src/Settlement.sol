// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {Registry} from "./Registry.sol";
import {Seeds} from "./Seeds.sol";
import {Vault} from "./Vault.sol";
import {IDisputes} from "./interfaces/IDisputes.sol";
import {IJury} from "./interfaces/IJury.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";
import {Accounts} from "./libraries/Accounts.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {EventsLib} from "./libraries/EventsLib.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Lanes} from "./libraries/Lanes.sol";

/// @title Settlement
/// @notice See ISettlement. This file holds batches and credit; Vault the token and escrow, Registry
/// bonds and stakes, Seeds the randomness; Disputes and Jury, contracts of their own, all judgement.
contract Settlement is ISettlement, Registry, Seeds, EIP712 {
    using Accounts for uint256;

    /* CONSTANTS */

    /// @inheritdoc ISettlement
    uint256 public constant MAX_LANES = 256;
    /// @dev How many lanes a coordinator that may post can be slashed for.
    uint256 internal constant MIN_SLASHES = 4;

    /* IMMUTABLES */

    /// @inheritdoc ISettlement
    IDisputes public immutable DISPUTES;
    /// @inheritdoc ISettlement
    IJury public immutable JURY;
    /// @inheritdoc ISettlement
    uint64 public immutable EPOCH;
    /// @inheritdoc ISettlement
    uint64 public immutable OPEN;
    /// @inheritdoc ISettlement
    uint64 public immutable RESPONSE;
    /// @inheritdoc ISettlement
    uint64 public immutable ORDER_LIFETIME;
    /// @inheritdoc ISettlement
    uint64 public immutable CHALLENGE_BOND;
    /// @inheritdoc ISettlement
    uint64 public immutable JURY_BOND;
    /// @inheritdoc ISettlement
    uint64 public immutable BOND_SLASH;
    /// @inheritdoc ISettlement
    uint64 public immutable STAKE_SLASH;

    /* STORAGE */

    /// @dev Words of Accounts.
    mapping(address account => uint256 payee) private _payees;
    mapping(address account => uint256) private _claimNonces;
    mapping(address coordinator => mapping(uint64 seq => bytes32)) private _batches;
    /// @dev What the judges have taken and not given back, and what they have given to nobody.
    uint128 private _held;
    uint128 private _burnt;

    /* CONSTRUCTOR */

    /// @dev Both judges must have been created for this address, which a deployer knows beforehand.
    /// Whoever relies on a deployment compares the code of all three (scripts/deploy --verify).
    constructor(Config memory config, IDisputes disputes, IJury jury)
        Vault(config.token, config.exitDelay)
        Registry(config.minBond, config.minStake)
        Seeds(config.seedDelay, config.nonceTimeout)
        EIP712("gpumarket", "1")
    {
        _checkConfig(config);
        EPOCH = config.epoch;
        OPEN = config.open;
        RESPONSE = config.response;
        ORDER_LIFETIME = config.exitDelay - config.open - config.response;
        CHALLENGE_BOND = config.challengeBond;
        JURY_BOND = config.juryBond;
        BOND_SLASH = config.bondSlash;
        STAKE_SLASH = config.stakeSlash;
        _checkJudge(disputes.SETTLEMENT());
        _checkJudge(jury.SETTLEMENT());
        DISPUTES = disputes;
        JURY = jury;
    }

    /* COORDINATOR */

    /// @inheritdoc ISettlement
    function postBatch(
        uint64 notAfter,
        bytes32 dataHash,
        bytes32 root,
        address[] calldata requesters,
        address[] calldata payees,
        bytes calldata lanes
    ) external returns (uint64 seq) {
        if (block.timestamp > notAfter) {
            revert ErrorsLib.TooLate(notAfter, block.timestamp);
        }
        seq = _nextBatch();
        (uint256[] memory debits, uint256[] memory credits) =
            _sumLanes(requesters.length, payees.length, lanes);
        for (uint256 i = 0; i < debits.length; ++i) {
            _debit(requesters[i], debits[i]);
        }
        uint32 epoch = currentEpoch();
        for (uint256 i = 0; i < credits.length; ++i) {
            _credit(payees[i], uint64(credits[i]), epoch, epoch);
        }
        uint64 postedAt = uint64(block.timestamp);
        // Hashed and logged from the same bytes, so whoever has the log has what a dispute needs.
        bytes memory data = abi.encode(postedAt, dataHash, root, requesters, payees, lanes);
        _batches[msg.sender][seq] = keccak256(data);
        bytes32 topic = ISettlement.BatchPosted.selector;
        assembly ("memory-safe") {
            log3(add(data, 32), mload(data), topic, caller(), seq)
        }
    }

    /* PAYEE */

    /// @inheritdoc ISettlement
    function claim(address payee) external nonReentrant returns (uint256 amount) {
        return _claim(payee, payoutOf(payee));
    }

    /// @inheritdoc ISettlement
    function claimTo(address payee, address to, uint256 deadline, bytes calldata signature)
        external
        nonReentrant
        returns (uint256 amount)
    {
        if (block.timestamp > deadline) {
            revert ErrorsLib.Expired(deadline, block.timestamp);
        }
        bytes32 structHash = Hashing.claim(payee, to, _claimNonces[payee]++, deadline);
        address payout = payoutOf(payee);
        address signer = ECDSA.recover(_hashTypedDataV4(structHash), signature);
        if (signer != payout) revert ErrorsLib.WrongSigner(payout, signer);
        return _claim(payee, to);
    }

    /* DISPUTES */

    /// @inheritdoc ISettlement
    function take(Pocket from, address account, uint64 amount, uint64 since)
        external
        returns (uint64 taken)
    {
        _checkCaller();
        taken = amount;
        if (from == Pocket.ESCROW) _debit(account, amount);
        else if (from == Pocket.CREDIT) _drawCredit(account, amount, _epochOf(since));
        else if (from == Pocket.BOND) taken = _takeBond(account, amount);
        else if (from == Pocket.STAKE) taken = _takeStake(account, amount);
        else revert ErrorsLib.BadPocket(uint8(from));
        _held += taken;
        emit EventsLib.Taken(from, account, taken, since);
    }

    /// @inheritdoc ISettlement
    function give(Pocket to, address account, uint64 amount, uint64 since) external {
        _checkCaller();
        // Underflows, and so reverts, before more is given than was taken.
        _held -= amount;
        if (to == Pocket.ESCROW) _requesters[account].balance += amount;
        else if (to == Pocket.CREDIT) _credit(account, amount, _epochOf(since), currentEpoch());
        else if (to == Pocket.STAKE) _operators[account].stake += amount;
        else if (to == Pocket.BURNT) _burnt += amount;
        else revert ErrorsLib.BadPocket(uint8(to));
        emit EventsLib.Given(to, account, amount, since);
    }

    /* VIEWS */

    /// @inheritdoc ISettlement
    function payeeOf(address account) external view returns (Payee memory) {
        return _payees[account].roll(currentEpoch()).unpack();
    }

    /// @inheritdoc ISettlement
    function claimNonceOf(address payee) external view returns (uint256) {
        return _claimNonces[payee];
    }

    /// @inheritdoc ISettlement
    function batchOf(address coordinator, uint64 seq) external view returns (bytes32) {
        return _batches[coordinator][seq];
    }

    /// @inheritdoc ISettlement
    function currentEpoch() public view returns (uint32) {
        return uint32(block.timestamp / EPOCH);
    }

    /// @inheritdoc ISettlement
    function held() external view returns (uint256) {
        return _held;
    }

    /// @inheritdoc ISettlement
    function burnt() external view returns (uint256) {
        return _burnt;
    }

    /// @inheritdoc ISettlement
    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /* INTERNAL: BATCHES */

    /// @dev Checks the caller's bond and counts a batch. Bond that is being unbonded does not count:
    /// nobody may post with a bond that can be gone before the batch can be disputed.
    function _nextBatch() private returns (uint64) {
        Coordinator storage coordinator = _coordinators[msg.sender];
        uint64 counted = coordinator.bond - coordinator.unbonding;
        if (counted < MIN_BOND) revert ErrorsLib.BondTooSmall(MIN_BOND, counted);
        return coordinator.batches++;
    }

    /// @dev Adds up lanes by party. Each total is below MAX_LANES * 2^64, so none can overflow.
    function _sumLanes(uint256 requesterCount, uint256 payeeCount, bytes calldata lanes)
        private
        pure
        returns (uint256[] memory debits, uint256[] memory credits)
    {
        uint256 count = Lanes.count(lanes);
        if (count == 0 || count > MAX_LANES || count * Lanes.SIZE != lanes.length) {
            revert ErrorsLib.BadLanesLength(Lanes.SIZE, MAX_LANES, lanes.length);
        }
        if (requesterCount > count) revert ErrorsLib.TooManyParties(count, requesterCount);
        if (payeeCount > count) revert ErrorsLib.TooManyParties(count, payeeCount);
        debits = new uint256[](requesterCount);
        credits = new uint256[](payeeCount);
        for (uint256 i = 0; i < count; ++i) {
            (uint256 requester, uint256 payee, uint256 leaves, uint256 amount) =
                Lanes.read(lanes, i);
            if (requester >= requesterCount) {
                revert ErrorsLib.BadLaneIndex(i, requesterCount, requester);
            }
            if (payee >= payeeCount) revert ErrorsLib.BadLaneIndex(i, payeeCount, payee);
            if (leaves == 0) revert ErrorsLib.EmptyLane(i);
            Lanes.add(debits, requester, amount);
            Lanes.add(credits, payee, amount);
        }
    }

    /* INTERNAL: CREDIT */

    /// @dev Adds `amount` to the credit that a payee earned in `epoch`; `current` is the present one.
    function _credit(address account, uint64 amount, uint32 epoch, uint32 current) private {
        _checkAddress(account);
        _payees[account] = _payees[account].roll(current).put(epoch, amount);
    }

    function _drawCredit(address account, uint64 amount, uint32 epoch) private {
        _payees[account] = _payees[account].roll(currentEpoch()).draw(epoch, amount);
    }

    function _claim(address payee, address to) private returns (uint256 amount) {
        (amount, _payees[payee]) = _payees[payee].roll(currentEpoch()).empty();
        if (amount == 0) revert ErrorsLib.NothingToClaim(payee);
        emit EventsLib.Claimed(payee, to, amount);
        _push(to, amount);
    }

    function _epochOf(uint64 time) private view returns (uint32) {
        return uint32(time / EPOCH);
    }

    /* INTERNAL: CHECKS */

    function _checkCaller() private view {
        if (msg.sender != address(DISPUTES) && msg.sender != address(JURY)) {
            revert ErrorsLib.NotAuthorized(address(DISPUTES), msg.sender);
        }
    }

    function _checkJudge(address settlement) private view {
        if (settlement != address(this)) {
            revert ErrorsLib.WrongParty("SETTLEMENT", address(this), settlement);
        }
    }

    function _checkConfig(Config memory config) private pure {
        _checkAtLeast("open", 1, config.open);
        _checkAtLeast("response", 1, config.response);
        _checkAtLeast("challengeBond", 1, config.challengeBond);
        _checkAtLeast("juryBond", 1, config.juryBond);
        // A whole batch of bad lanes must cost more than one slash; a stake must cover one.
        _checkAtLeast("bondSlash", 1, config.bondSlash);
        _checkAtLeast("stakeSlash", 1, config.stakeSlash);
        _checkAtLeast("minBond", uint256(config.bondSlash) * MIN_SLASHES, config.minBond);
        _checkAtLeast("minStake", config.stakeSlash, config.minStake);
        // A challenge must end while the credit it took is still unmatured, and leave time for
        // proofs made of what the answer showed. Credit waits for one whole epoch at least.
        uint256 dispute = uint256(config.open) + 2 * uint256(config.response);
        _checkAtLeast("epoch", dispute, config.epoch);
        // Bond and stake must outlast every dispute over what they back: credit can be taken back
        // for two epochs. And some time must be left in which an order can be open.
        _checkAtLeast("exitDelay", 2 * uint256(config.epoch), config.exitDelay);
    }

    function _checkAtLeast(bytes32 name, uint256 minimum, uint256 actual) private pure {
        if (actual < minimum) revert ErrorsLib.BadConfig(name, minimum, actual);
    }
}
