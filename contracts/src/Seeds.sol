// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISeeds} from "./interfaces/ISeeds.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {EventsLib} from "./libraries/EventsLib.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {SeedBlock} from "./libraries/SeedBlock.sol";

/// @title Seeds
/// @notice See ISeeds. Holds no money and calls nothing but the EIP-2935 history contract.
abstract contract Seeds is ISeeds {
    /* CONSTANTS */

    /// @inheritdoc ISeeds
    bytes32 public constant SEED_TAG = Hashing.SEED_TAG;

    /* IMMUTABLES */

    /// @inheritdoc ISeeds
    uint64 public immutable SEED_DELAY;
    /// @inheritdoc ISeeds
    uint64 public immutable NONCE_TIMEOUT;

    /* STORAGE */

    mapping(address committer => uint64) private _commitCount;
    mapping(address committer => mapping(uint64 seq => bytes32)) private _commitments;

    /* CONSTRUCTOR */

    constructor(uint64 seedDelay, uint64 nonceTimeout) {
        uint256 window = SeedBlock.HISTORY_WINDOW;
        // With no delay the committer would know the seed's block; a delay or timeout beyond the
        // window would leave no block in which the seed can be fixed.
        if (seedDelay == 0) revert ErrorsLib.BadConfig("seedDelay", 1, seedDelay);
        if (seedDelay >= window) revert ErrorsLib.BadConfig("seedDelay", window - 1, seedDelay);
        if (nonceTimeout >= window) {
            revert ErrorsLib.BadConfig("nonceTimeout", window - 1, nonceTimeout);
        }
        SEED_DELAY = seedDelay;
        NONCE_TIMEOUT = nonceTimeout;
    }

    /* ACTIONS */

    /// @inheritdoc ISeeds
    function commit(bytes32 root, bytes32 nonceHash, bytes32 dataHash)
        external
        returns (uint64 seq)
    {
        seq = _commitCount[msg.sender]++;
        Commitment memory commitment = Commitment({
            root: root, nonceHash: nonceHash, dataHash: dataHash, blockNumber: uint64(block.number)
        });
        _commitments[msg.sender][seq] = _hash(commitment, 0);
        emit EventsLib.Committed(msg.sender, seq, root, nonceHash, dataHash, uint64(block.number));
    }

    /// @inheritdoc ISeeds
    function fixSeed(
        address committer,
        uint64 seq,
        Commitment calldata commitment,
        bytes calldata headerRLP,
        bytes calldata nonces
    ) external returns (bytes32 seed) {
        if (_commitments[committer][seq] != _hash(commitment, 0)) {
            // Also when the seed is fixed already: that has changed the hash.
            revert ErrorsLib.UnknownCommitment(committer, seq);
        }
        uint64 seedBlock = commitment.blockNumber + SEED_DELAY;
        bytes32 mixHash = SeedBlock.mixHash(seedBlock, headerRLP);
        bytes32 noncesHash = keccak256(nonces);
        if (noncesHash != commitment.nonceHash) {
            _checkNoncesWaived(seedBlock, commitment.nonceHash, noncesHash, nonces.length);
        }
        seed = Hashing.seed(address(this), committer, seq, commitment.root, mixHash, noncesHash);
        _commitments[committer][seq] = _hash(commitment, seed);
        emit EventsLib.SeedFixed(committer, seq, seedBlock, mixHash, seed);
    }

    /* VIEWS */

    /// @inheritdoc ISeeds
    function commitmentOf(address committer, uint64 seq) external view returns (bytes32) {
        return _commitments[committer][seq];
    }

    /// @inheritdoc ISeeds
    function commitCountOf(address committer) external view returns (uint64) {
        return _commitCount[committer];
    }

    /* INTERNAL */

    function _hash(Commitment memory commitment, bytes32 seed) private pure returns (bytes32) {
        return keccak256(abi.encode(commitment, seed));
    }

    /// @dev Nonces that do not open the commitment pass only if there are none and it is late: so
    /// whoever holds them back has no veto, only a choice between two seeds neither of which was
    /// known at commitment.
    function _checkNoncesWaived(uint256 seedBlock, bytes32 expected, bytes32 actual, uint256 length)
        private
        view
    {
        if (length != 0) revert ErrorsLib.WrongNonces(expected, actual);
        uint256 earliest = seedBlock + NONCE_TIMEOUT + 1;
        if (block.number < earliest) {
            revert ErrorsLib.NoncesStillAwaited(earliest, block.number);
        }
    }
}
