// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title Hashing
/// @notice Hashes that parties sign (EIP-712 structs), settlement leaves and seeds. Python computes
/// the same; tests/vectors/settlement.json holds both to it.
library Hashing {
    /* TYPES */

    /// @notice A requester's promise to pay. `provider` zero leaves the provider open.
    struct Order {
        address requester;
        address coordinator;
        address provider;
        bytes32 jobHash;
        bytes32 verifyHash;
        uint32 units;
        uint32 checks;
        uint64 maxUnitPrice;
        uint64 maxCheckPrice;
        uint64 maxFee;
        uint64 settleBy;
        uint64 expiry;
        uint256 nonce;
    }

    /// @notice What the one who did a unit signs. `unit` below `units` is work, below
    /// `units + checks` a re-execution, and `units + checks` the coordinator's fee.
    struct Receipt {
        bytes32 orderHash;
        uint32 unit;
        address provider;
        bytes32 resultHash;
        uint64 price;
        uint64 finishedAt;
    }

    /// @notice A verifier's verdict on a receipt: 1 MATCH, 2 MISMATCH, 3 INCONCLUSIVE.
    struct Attestation {
        bytes32 receiptHash;
        uint8 verdict;
        bytes32 evidenceHash;
        uint64 issuedAt;
    }

    /// @notice A coordinator's word that a unit of an open order was given to a provider.
    struct Assignment {
        bytes32 orderHash;
        uint32 unit;
        address provider;
        uint64 maxPrice;
        uint64 reservedUntil;
    }

    /// @notice What one payment line of one order pays: the leaf of a lane.
    /// @param evidenceHash Struct hash of the receipt (work) or attestation (check); `feeEvidence`
    /// (fee).
    struct Leaf {
        bytes32 orderHash;
        uint32 line;
        bytes32 evidenceHash;
        uint64 price;
    }

    /// @notice Any other signed document, by its kind and content hash.
    struct Document {
        string kind;
        bytes32 contentHash;
    }

    /* CONSTANTS */

    bytes32 internal constant ORDER_TYPEHASH = keccak256(
        "Order(address requester,address coordinator,address provider,bytes32 jobHash,bytes32 verifyHash,uint32 units,uint32 checks,uint64 maxUnitPrice,uint64 maxCheckPrice,uint64 maxFee,uint64 settleBy,uint64 expiry,uint256 nonce)"
    );
    bytes32 internal constant RECEIPT_TYPEHASH = keccak256(
        "Receipt(bytes32 orderHash,uint32 unit,address provider,bytes32 resultHash,uint64 price,uint64 finishedAt)"
    );
    bytes32 internal constant ATTESTATION_TYPEHASH = keccak256(
        "Attestation(bytes32 receiptHash,uint8 verdict,bytes32 evidenceHash,uint64 issuedAt)"
    );
    bytes32 internal constant ASSIGNMENT_TYPEHASH = keccak256(
        "Assignment(bytes32 orderHash,uint32 unit,address provider,uint64 maxPrice,uint64 reservedUntil)"
    );
    bytes32 internal constant ACCEPTANCE_TYPEHASH = keccak256("Acceptance(bytes32 receiptHash)");
    bytes32 internal constant CLAIM_TYPEHASH =
        keccak256("Claim(address payee,address to,uint256 nonce,uint256 deadline)");
    bytes32 internal constant DOCUMENT_TYPEHASH =
        keccak256("Document(string kind,bytes32 contentHash)");
    bytes32 internal constant SEED_TAG = keccak256("gpumarket.seed.v1");
    bytes32 internal constant JURY_TAG = keccak256("gpumarket.jury.v1");

    /* STRUCT HASHES */

    /// @notice EIP-712 struct hash of an order; this is its `orderHash`.
    function hash(Order memory order) internal pure returns (bytes32) {
        // All fields are static, so the encoding of the struct is that of its fields in a row.
        return keccak256(abi.encode(ORDER_TYPEHASH, order));
    }

    /// @notice EIP-712 struct hash of a receipt; this is its `receiptHash`.
    function hash(Receipt memory receipt) internal pure returns (bytes32) {
        return keccak256(abi.encode(RECEIPT_TYPEHASH, receipt));
    }

    /// @notice EIP-712 struct hash of an attestation.
    function hash(Attestation memory attestation) internal pure returns (bytes32) {
        return keccak256(abi.encode(ATTESTATION_TYPEHASH, attestation));
    }

    /// @notice EIP-712 struct hash of an assignment.
    function hash(Assignment memory assignment) internal pure returns (bytes32) {
        return keccak256(abi.encode(ASSIGNMENT_TYPEHASH, assignment));
    }

    /// @notice EIP-712 struct hash of a requester's acceptance of a receipt.
    function acceptance(bytes32 receiptHash) internal pure returns (bytes32) {
        return keccak256(abi.encode(ACCEPTANCE_TYPEHASH, receiptHash));
    }

    /// @notice EIP-712 struct hash of a payout address's wish to be paid elsewhere.
    function claim(address payee, address to, uint256 nonce, uint256 deadline)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(CLAIM_TYPEHASH, payee, to, nonce, deadline));
    }

    /// @notice EIP-712 struct hash of a document.
    function hash(Document memory document) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(DOCUMENT_TYPEHASH, keccak256(bytes(document.kind)), document.contentHash)
        );
    }

    /* LEAVES AND SEEDS */

    /// @notice Settlement leaf.
    function hash(Leaf memory leaf) internal pure returns (bytes32) {
        return keccak256(
            abi.encodePacked(bytes1(0x00), leaf.orderHash, leaf.line, leaf.evidenceHash, leaf.price)
        );
    }

    /// @notice What stands in a fee leaf for evidence: the order itself, tagged.
    function feeEvidence(bytes32 orderHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked("gpumarket.fee.v1", orderHash));
    }

    /// @notice Seed of a jury; bound to chain, contract, case and level against replay.
    function jurySeed(address disputes, uint256 id, uint8 level, bytes32 mixHash)
        internal
        view
        returns (bytes32)
    {
        return keccak256(abi.encode(JURY_TAG, block.chainid, disputes, id, level, mixHash));
    }

    /// @notice Seed of a commitment; bound to chain, contract and commitment against replay.
    function seed(
        address settlement,
        address committer,
        uint64 seq,
        bytes32 root,
        bytes32 mixHash,
        bytes32 noncesHash
    ) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                SEED_TAG, block.chainid, settlement, committer, seq, root, mixHash, noncesHash
            )
        );
    }
}
