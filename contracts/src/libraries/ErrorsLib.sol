// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title ErrorsLib
/// @notice Every error. Values come in the order expected, then actual.
library ErrorsLib {
    /* CONSTRUCTION */

    /// @notice The token has more decimals than 64-bit amounts allow.
    error TooManyDecimals(uint8 maximum, uint8 actual);
    /// @notice A constructor parameter breaks a bound; `name` is its field in `Config`.
    error BadConfig(bytes32 name, uint256 bound, uint256 actual);

    /* MONEY */

    /// @notice An amount of zero moves nothing.
    error ZeroAmount();
    /// @notice The zero address and the contract itself cannot hold credit or be paid.
    error BadAddress(address actual);
    /// @notice The token moved another amount than asked: fee on transfer or rebasing.
    error TransferMismatch(uint256 expected, uint256 actual);
    /// @notice The contract would hold more tokens than 64-bit amounts can count.
    error HoldingsTooLarge(uint256 maximum, uint256 actual);
    /// @notice An account has less than is needed of it.
    error InsufficientBalance(address account, uint256 needed, uint256 actual);
    /// @notice Nothing was requested back, or batches have spent all of it.
    error NothingRequested(address account);
    /// @notice The exit delay has not passed.
    error StillLocked(uint256 unlockAt, uint256 actual);
    /// @notice Credit of this epoch can no longer be taken back.
    error CreditMatured(uint256 earliestEpoch, uint256 actualEpoch);
    /// @notice Less credit is waiting than was to be taken back.
    error InsufficientCredit(uint256 needed, uint256 actual);
    /// @notice Disputes do not take from, or give to, this pocket.
    error BadPocket(uint8 actual);
    /// @notice No credit has matured.
    error NothingToClaim(address payee);

    /* COORDINATOR */

    /// @notice The bond that counts is below the minimum.
    error BondTooSmall(uint256 minimum, uint256 actual);
    /// @notice The packed lanes are not 1 to the maximum of whole lanes.
    error BadLanesLength(uint256 laneBytes, uint256 maximumLanes, uint256 actualBytes);
    /// @notice More requesters or payees than lanes.
    error TooManyParties(uint256 maximum, uint256 actual);
    /// @notice A lane names a party beyond its list.
    error BadLaneIndex(uint256 lane, uint256 length, uint256 actual);
    /// @notice A lane without leaves.
    error EmptyLane(uint256 lane);

    /* PROVIDER AND VERIFIER */

    /// @notice The stake would be below the minimum.
    error StakeTooSmall(uint256 minimum, uint256 actual);
    /// @notice The operator key is registered in the other role.
    error WrongRole(uint8 expected, uint8 actual);
    /// @notice The operator key is registered with another payout address.
    error WrongPayout(address expected, address actual);
    /// @notice The caller may not do this for that operator or payee.
    error NotAuthorized(address expected, address actual);

    /* SEEDS */

    /// @notice There is no such commitment without a seed.
    error UnknownCommitment(address committer, uint64 seq);
    /// @notice The seed block is not yet in the past.
    error SeedBlockNotReached(uint256 earliest, uint256 actual);
    /// @notice The seed block's hash can no longer be read on chain.
    error SeedBlockTooOld(uint256 latest, uint256 actual);
    /// @notice The header is not that of the seed block.
    error WrongHeader(bytes32 expected, bytes32 actual);
    /// @notice The nonces are not the committed ones.
    error WrongNonces(bytes32 expected, bytes32 actual);
    /// @notice Empty nonces are accepted only from a later block.
    error NoncesStillAwaited(uint256 earliest, uint256 actual);
    /// @notice The bytes are not the RLP of a block header.
    error BadHeader();

    /* SIGNATURES */

    /// @notice The signature is not by whom it must be; `actual` is zero where it is malformed.
    error WrongSigner(address expected, address actual);
    /// @notice What was signed was valid until then.
    error Expired(uint256 deadline, uint256 actual);

    /* EVIDENCE */

    /// @notice There is no batch with this content.
    error UnknownBatch(bytes32 expected, bytes32 actual);
    /// @notice An index beyond what there is.
    error BadIndex(uint256 bound, uint256 actual);
    /// @notice A path is as long as its trees are deep, no longer and no shorter.
    error BadPathLength(uint256 expected, uint256 actual);
    /// @notice The leaf is not there in the batch, or the amounts do not add up.
    error BadOpening(bytes32 expectedRoot, bytes32 actualRoot);
    /// @notice Two things that must be the same are not; `what` names the second.
    error WrongHash(bytes32 what, bytes32 expected, bytes32 actual);
    /// @notice Somebody else than the one who must be there; `what` names where.
    error WrongParty(bytes32 what, address expected, address actual);
    /// @notice A receipt or assignment of another unit, or of one the order does not have.
    error WrongUnit(uint32 expected, uint32 actual);
    /// @notice Another price than was signed.
    error WrongPrice(uint64 expected, uint64 actual);
    /// @notice Another verdict than is needed: 1 MATCH, 2 MISMATCH, 3 INCONCLUSIVE.
    error WrongVerdict(uint8 expected, uint8 actual);
    /// @notice A verifier cannot judge what it gains by.
    error NotIndependent(address verifier);
    /// @notice The order does not allow this payment; `fault` is a `LeafFault`.
    error FaultyLeaf(uint8 fault);
    /// @notice What was shown is no fault.
    error NoFault();

    /* DISPUTES */

    /// @notice It is too late for this.
    error TooLate(uint256 latest, uint256 actual);
    /// @notice It is too early for this.
    error TooEarly(uint256 earliest, uint256 actual);
    /// @notice There is no open challenge with this content.
    error UnknownChallenge(bytes32 expected, bytes32 actual);
    /// @notice The payment was taken back already.
    error AlreadyVoid();
    /// @notice The same dispute is open already.
    error AlreadyDisputed();
    /// @notice The evidence was shown already.
    error AlreadyAnswered();
    /// @notice The line was settled directly already.
    error AlreadySettled();
    /// @notice More would be taken out of a lane than it moved.
    error LaneExceeded(uint64 laneAmount, uint64 actual);

    /* JURY */

    /// @notice There is no open case of this number.
    error UnknownCase(uint256 id);
    /// @notice Not the number of verifiers that had been listed for an epoch.
    error WrongEligible(uint256 listed, uint256 actual);
    /// @notice The jury of this level sits already.
    error AlreadySeated();
    /// @notice The jury of this level was not drawn yet.
    error NotSeated();
    /// @notice Fewer votes than decide; 0 needed: the jury is empty.
    error NoQuorum(uint256 needed, uint256 actual);
    /// @notice The jury has decided, or the verifier was slashed for this, already.
    error AlreadyJudged();
    /// @notice The jury has not decided.
    error NotDecided();
    /// @notice There is no appeal from the last level.
    error NoFurtherLevel();
}
