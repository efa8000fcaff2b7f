"""
The rows of the error catalog, one text each so that they read like the page they become.

First line: code, HTTP status, how a command exits, whose fault, `retry` or `final`.
Then the title, the summary, and one remedy a line.
"""

from __future__ import annotations

ROWS: tuple[str, ...] = (
    # ---- 1xxx: usage, files, orders --------------------------------------------------------
    """GM-1001 400 USAGE requester final
wrong usage
The command or request is not one we know, or a value in it cannot be read.
gpumarket --help""",
    """GM-1002 404 NOT_FOUND requester final
no such name
There is no job, error code, schema, profile or account of this name here.
gpumarket job list
gpumarket explain --list""",
    """GM-1003 400 USAGE requester final
an answer is needed, but nobody can be asked
The command would ask before it moves money, but input or output is not a terminal.
add -y to say yes beforehand""",
    """GM-1004 403 NOT_ALLOWED requester final
the answer was no
The question was answered with anything but yes; nothing was done.
run the command again and answer y""",
    """GM-1101 400 INVALID_FILE requester final
the file cannot be read
The job file does not exist, is not text, is too large, or may not be read.
gpumarket job init -o job.yaml""",
    """GM-1102 400 INVALID_FILE requester final
the file is not YAML
The text breaks YAML's own rules, so nothing in it can be checked yet.
look at the line named in the message; tabs and unclosed quotes are the usual causes""",
    """GM-1103 400 INVALID_FILE requester final
a required field is missing
The job file leaves out something a job cannot do without.
gpumarket schema job""",
    """GM-1104 400 INVALID_FILE requester final
unknown field
The job file has a field the format does not know; it is refused rather than ignored.
gpumarket schema job""",
    """GM-1105 400 INVALID_FILE requester final
a value does not fit its field
A value has the wrong form or is out of range.
gpumarket schema job""",
    """GM-1106 400 INVALID_FILE requester final
two fields exclude each other
The job file sets fields that cannot be meant together.
remove one of the two fields""",
    """GM-1107 400 INVALID_FILE requester final
not one of the choices
A field has a fixed list of values and this is none of them.
gpumarket schema job""",
    """GM-1108 400 INVALID_FILE requester final
an amount without its token
Money is written as a decimal and a token, so that nobody has to guess the unit.
write it like  12.50 USDC""",
    """GM-1109 400 INVALID_FILE requester final
a size without its unit
A bare number would mean bytes, which is too few to be meant.
write it like  16GB""",
    """GM-1121 400 INVALID_FILE requester final
the split names an input that does not exist
A job is split over one of its inputs, called by its name.
use one of the names under inputs""",
    """GM-1122 400 INVALID_FILE requester final
a local file does not exist
A `file:` path is looked up from the folder of the job file.
check the path, or use ipfs://CID for content that is elsewhere""",
    """GM-1123 400 INVALID_FILE requester final
the split gives no tasks or too many
A job has between 1 and 10,000 tasks.
change split.size""",
    """GM-1130 400 INVALID_FILE requester final
the image is neither local nor content-addressed
Images come as an archive: a local file, or a CID with the digest. Registries are not used yet.
docker save IMAGE -o image.tar    and write  image: file:image.tar""",
    """GM-1131 400 INVALID_FILE requester final
the image has no digest
The order signs the exact image, so its digest must be known before signing.
add  image_digest: sha256:...""",
    """GM-1140 400 INVALID_FILE requester final
not supported yet
The format has this field, this release does not carry it out; it is refused, not ignored.
remove the field""",
    """GM-1150 400 NO_MONEY requester final
the budget is too small to promise anything
Shared over all tasks and checks, the budget is less than one base unit each.
raise budget.max, or make fewer tasks with split.size""",
    """GM-1201 409 CONFLICT requester final
the order does not belong to this job
The signed order and the job sent with it disagree.
gpumarket job run FILE    (plans and signs again)""",
    """GM-1202 409 CONFLICT requester final
the order has expired
The order's times have passed or are out of order.
gpumarket job run FILE    (plans and signs again)""",
    """GM-1203 409 CONFLICT requester final
this order was sent before with another content
An idempotency key or order nonce names another request already.
gpumarket job list""",
    """GM-1204 401 NOT_ALLOWED requester final
a signature is missing or wrong
The request needs the signature of the account it speaks for.
gpumarket wallet list
gpumarket config show --origin""",
    """GM-1301 400 INVALID_FILE requester final
the configuration file cannot be read
It does not exist or is not TOML.
gpumarket config show --origin""",
    """GM-1302 400 INVALID_FILE requester final
a setting is invalid
The configuration has a key we do not know or a value that does not fit.
gpumarket config show --origin""",
    """GM-1303 400 INVALID_FILE requester final
a setting for the devnet only
Simulated devices, cheats and test keys exist on chain 31337 only.
remove the setting, or use the devnet""",
    """GM-1401 404 NOT_FOUND requester final
there is no devnet here
No devnet was started in this folder.
gpumarket devnet up""",
    """GM-1402 409 CONFLICT requester final
a devnet runs already
One folder holds one devnet.
gpumarket devnet down""",
    # ---- 2xxx: this machine ----------------------------------------------------------------
    """GM-2001 500 DOCTOR_BLOCKS none final
doctor found something that blocks
At least one check of this machine or configuration must pass before work can start.
follow the fix printed under the check""",
    """GM-2101 503 DOCTOR_BLOCKS provider final
no Docker engine answers
Tasks run in containers; without an engine this machine can neither provide nor verify.
sudo apt-get install docker.io
sudo systemctl start docker""",
    """GM-2102 503 DOCTOR_BLOCKS provider final
this user may not use Docker
The engine is there but refuses this user.
sudo usermod -aG docker $USER    (then log in again)""",
    """GM-2103 503 DOCTOR_BLOCKS provider final
the GPU is not visible inside containers
Docker cannot hand the GPU to a container; the container toolkit is missing or not registered.
sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker""",
    """GM-2110 503 DOCTOR_BLOCKS provider final
the engine does not enforce the sandbox's limits
A limit that was asked for is not in force, so strangers' programs are not run here.
gpumarket doctor --role provider""",
    """GM-2120 503 DOCTOR_BLOCKS none final
the local chain is not installed
A devnet needs anvil, which set-up installs.
scripts/setup""",
    """GM-2201 503 DOCTOR_BLOCKS none final
too little disk
The data folder has less free space than tasks and content need.
free space, or set data_dir to another disk""",
    """GM-2202 503 DOCTOR_BLOCKS none final
the clock is off
Promises carry times; a clock that is off by more than 30 seconds makes them invalid.
sudo timedatectl set-ntp true""",
    # ---- 3xxx: wallet and chain ------------------------------------------------------------
    """GM-3001 503 UNREACHABLE chain retry
the chain cannot be reached
The RPC endpoint did not answer, or not with what was asked.
gpumarket config show --origin
gpumarket doctor""",
    """GM-3003 409 MARKET_FAILED chain retry
a transaction was not mined in time
The transaction was sent, but no block has it yet; it may still come.
gpumarket wallet balance""",
    """GM-3010 402 NO_MONEY requester final
not enough tokens in the wallet
The account holds less than should be moved.
gpumarket wallet balance""",
    """GM-3011 402 NO_MONEY requester final
not enough in escrow
A job may cost up to its budget, and that much must be free in escrow before it starts.
gpumarket wallet deposit AMOUNT
lower budget.max in the job file""",
    """GM-3012 402 NO_MONEY none final
not enough gas
The account cannot pay the chain for a transaction.
send the account some of the chain's own coin""",
    """GM-3013 409 CONFLICT requester final
the money is not free
It is locked for running jobs, or a withdrawal has not matured.
gpumarket wallet balance""",
    """GM-3020 409 CONFLICT requester final
wrong network
The coordinator, the RPC and the configuration must mean one chain; they do not.
gpumarket config show --origin""",
    """GM-3021 503 UNREACHABLE chain retry
the contract is not there
The chain has no settlement contract at the configured address.
gpumarket config show --origin""",
    """GM-3022 403 NOT_ALLOWED requester final
test keys are for the devnet only
The private key of this account is public; on a real chain anybody could take its money.
gpumarket wallet new""",
    """GM-3055 409 CONFLICT chain final
the contract refuses this call
In its present state the contract will refuse this call every time.
gpumarket explain GM-3055
look at the revert named in the message""",
    """GM-3056 409 CONFLICT chain retry
somebody was faster
Another transaction changed what this one relied on; read again, then decide.
run the command again""",
    """GM-3101 404 NOT_FOUND requester final
no such key
No key file of this name or address is in the keystore folder.
gpumarket wallet list
gpumarket wallet new""",
    """GM-3102 403 NOT_ALLOWED requester final
a key is readable by others
Key files and password files must be readable by their owner only.
chmod 600 FILE""",
    """GM-3103 403 NOT_ALLOWED requester final
the key file cannot be opened
The password is missing or wrong, or the file is not a version 3 keystore.
set GPUMARKET_PASSWORD_FILE to a file with the password""",
    """GM-3104 409 CONFLICT requester final
a key is never overwritten
There is a key file of this name already.
gpumarket wallet list""",
    # ---- 4xxx: market ----------------------------------------------------------------------
    """GM-4021 409 NO_OFFER network retry
no provider can run this job now
No provider online satisfies every requirement; the counts say where each one falls out.
gpumarket job plan FILE --explain
gpumarket market offers""",
    """GM-4022 409 NO_OFFER network retry
the job waited too long for a provider
Nothing started within limits.queue; the job ended and nothing was charged.
raise limits.queue, or relax the requirement named in the message""",
    """GM-4031 403 MARKET_FAILED provider final
an offer is refused
A provider's offer breaks a rule of this market.
look at the reason in the provider's log""",
    """GM-4040 409 CONFLICT provider final
the price is above what is asked
A lease or offer asks more than the order allows.
gpumarket market offers""",
    # ---- 5xxx: job -------------------------------------------------------------------------
    """GM-5001 404 NOT_FOUND requester final
no such job
This coordinator has no job whose id begins like this.
gpumarket job list""",
    """GM-5002 409 USAGE requester final
the job's id is ambiguous
Several jobs begin with these characters.
gpumarket job list    (and give more characters)""",
    """GM-5003 409 CONFLICT requester final
the job is not in a state for this
What was asked needs the job to be further on, or not yet over.
gpumarket job describe JOB""",
    """GM-5004 504 NOT_FINISHED none retry
the job has not finished in time
The waiting ended, the job did not; it keeps running.
gpumarket job describe JOB
gpumarket job wait JOB""",
    """GM-5101 422 JOB_FAILED requester final
the program failed
The container ran, and the program in it ended with an exit code other than zero.
gpumarket job logs JOB""",
    """GM-5102 422 JOB_FAILED requester final
a task ran longer than its limit
The program was still running when limits.run was over, and was stopped.
raise limits.run, or make tasks smaller with split.size""",
    """GM-5103 422 JOB_FAILED requester final
a task's output is over its limit
The program wrote more than the output's max_size allows.
raise max_size of the output""",
    """GM-5104 422 JOB_FAILED requester final
a task used more memory than it asked for
The kernel stopped the program at the limit that resources.memory sets.
raise resources.memory""",
    """GM-5201 502 MARKET_FAILED provider retry
a container could not be run as asked
The engine refused or lost the container; the program is not to blame.
gpumarket job describe JOB
gpumarket doctor --role provider""",
    """GM-5203 422 JOB_FAILED requester final
the image is not the one that was signed
The archive holds another image than the digest in the signed job.
rebuild the archive, or correct image_digest""",
    """GM-5204 422 JOB_FAILED requester final
the image archive is refused
The archive is not a plain docker-archive, or holds something that could leave its folder.
docker save IMAGE -o image.tar""",
    """GM-5301 502 MARKET_FAILED provider retry
a provider was lost
The provider stopped answering; its unfinished tasks go to others and are not charged.
gpumarket job describe JOB""",
    """GM-5302 502 MARKET_FAILED provider retry
a device failed
The GPU reported an error; the task goes to another provider and is not charged.
gpumarket job describe JOB""",
    """GM-5303 502 MARKET_FAILED provider retry
a lease was declined
The provider would not take the task; another one is asked.
gpumarket job why JOB""",
    """GM-5304 502 MARKET_FAILED provider retry
a lease's deadline passed
No receipt came in time; the task goes to another provider and is not charged.
gpumarket job describe JOB""",
    """GM-5401 409 JOB_CANCELLED requester final
the job was cancelled
The requester ended it; what was accepted until then is paid, the rest is free again.
gpumarket job receipt JOB""",
    # ---- 6xxx: content ---------------------------------------------------------------------
    """GM-6001 502 MARKET_FAILED network retry
content could not be fetched
Bytes are missing, late or wrong; what arrived and was checked is kept.
gpumarket data stat CID""",
    """GM-6010 400 USAGE requester final
not a CID
Content is named by a CID of version 0 or 1 with sha2-256.
gpumarket data add PATH    (prints one)""",
    """GM-6011 400 INVALID_FILE requester final
this cannot be content
A name is not plain, a folder is too large, or something is neither file nor folder.
put the files into subfolders or into one archive""",
    """GM-6012 404 NOT_FOUND requester final
content cannot be found
Nobody who was asked has this content.
gpumarket data add PATH
gpumarket data stat CID""",
    """GM-6013 413 INVALID_FILE requester final
content is too large
The content is over the limit of whoever should store it.
gpumarket market offers    (the coordinator's limits are in /v1/info)""",
    """GM-6014 502 MARKET_FAILED network final
content is not what its CID says
Bytes hash to another name; they were thrown away.
run the command again; if it stays, the sender is broken""",
    """GM-6015 504 MARKET_FAILED network retry
content did not come in time
Some blocks are missing when the time was over; what came is kept.
gpumarket data stat CID""",
    """GM-6016 404 NOT_FOUND network retry
a block is not in the store
The store does not have this block, or had to remove a damaged one.
gpumarket data stat CID""",
    """GM-6017 422 MARKET_FAILED network final
not readable content
The blocks are what their CIDs say, but they are not files or folders.
gpumarket data stat CID""",
    """GM-6018 422 MARKET_FAILED network final
a folder where a file was meant
The CID names a folder; one file is needed here.
gpumarket data stat CID""",
    """GM-6019 409 CONFLICT none final
the place exists already
Content is never written over something that exists.
remove it, or choose another place""",
    """GM-6030 507 MARKET_FAILED provider retry
the content store is full
No space is left under the store's limit or on its disk.
free space on the disk""",
    """GM-6031 500 MARKET_FAILED provider final
the disk refused
Reading or writing the content store failed in the operating system.
look at the disk and the permissions of the data folder""",
    """GM-6032 409 CONFLICT none final
another process uses the content store
One store belongs to one process.
stop the other process, or set another data_dir""",
    """GM-6033 503 UNREACHABLE none retry
Kubo does not answer
The configured Kubo daemon is not running or not reachable.
ipfs daemon""",
    """GM-6034 502 MARKET_FAILED none retry
Kubo refused a call
The Kubo daemon answered with an error of its own.
ipfs log tail""",
    # ---- 7xxx: verification and audit ------------------------------------------------------
    """GM-7001 422 AUDIT_FAIL none final
verification FAILED
A contradiction was found: something that was claimed cannot be true.
gpumarket audit verify JOB --json > evidence.json""",
    """GM-7010 422 AUDIT_INCOMPLETE none retry
verification INCOMPLETE
Evidence is missing; nothing was disproved and nothing proved.
gpumarket audit verify JOB --rpc URL    (an archive node)""",
    """GM-7101 422 MARKET_FAILED provider final
a forged result
A task done again gave another result; the provider's tasks of this round are not paid.
gpumarket job describe JOB
gpumarket audit verify JOB""",
    """GM-7102 422 MARKET_FAILED provider final
a result was not opened
The provider committed to results and then did not show them in time; they are not paid.
gpumarket job describe JOB""",
    """GM-7103 422 MARKET_FAILED provider final
a root was not signed
The provider did not agree to the list of its receipts in time; its tasks are done again.
gpumarket job describe JOB""",
    """GM-7104 422 MARKET_FAILED verifier retry
a check was inconclusive
The verifier could not do the task again; nobody is blamed and the task is done once more.
gpumarket job describe JOB""",
    """GM-7105 422 MARKET_FAILED verifier retry
no verifier answers
Checks wait until a registered verifier is connected.
gpumarket job why JOB""",
    """GM-7202 409 MARKET_FAILED verifier final
a check was asked for too late
The deadline of a check had passed when it was asked for.
sudo timedatectl set-ntp true""",
    """GM-7203 503 MARKET_FAILED verifier retry
the verifier has no room for a check
It has as many unfinished checks as it may have.
gpumarket job why JOB""",
    # ---- 8xxx: coordinator and network -----------------------------------------------------
    """GM-8001 500 MARKET_FAILED coordinator retry
the coordinator failed
The coordinator stopped at this request with an error of its own.
run the command again later
gpumarket doctor""",
    """GM-8002 429 UNREACHABLE none retry
too many requests
A limit on requests or connections was reached.
wait for the time the answer names""",
    """GM-8003 503 UNREACHABLE network retry
no contact with the coordinator
Nobody answers at the coordinator's address; running jobs are not affected.
gpumarket doctor
gpumarket config show --origin""",
    """GM-8004 502 MARKET_FAILED coordinator final
the coordinator's answer is not understood
The answer does not have the promised form; the two versions may not fit.
gpumarket version
gpumarket doctor""",
    """GM-8005 404 NOT_FOUND none final
there is nothing at this address
The coordinator does not know this path.
gpumarket version""",
    """GM-8101 500 CONFLICT none final
the port is in use
Another process listens there already.
stop the other process, or set another port""",
    """GM-8102 500 CONFLICT none final
the data folder is in use
Another process of this role works in the same data folder.
stop the other process, or set another data_dir""",
    """GM-8103 502 MARKET_FAILED network retry
the session was closed
The peer ended the session or the connection broke; it is opened again.
gpumarket doctor""",
    """GM-8104 502 MARKET_FAILED network retry
the peer gives no sign of life
Nothing arrived for longer than two heartbeats; the session is opened again.
gpumarket doctor""",
    """GM-8105 502 MARKET_FAILED network retry
the peer cannot be reached
No connection to any of the peer's addresses came about.
gpumarket doctor""",
    """GM-8106 400 MARKET_FAILED network final
malformed gossip
A peer broadcast something that is not an offer; it was dropped and counted.
look at the peer's version""",
    """GM-8107 500 BUG none retry
the network host died
The libp2p host of this process ended; it is started again.
gpumarket doctor""",
    """GM-8201 400 MARKET_FAILED network final
a peer broke the protocol
Something that arrived is malformed, unsigned or over a limit; it was dropped and counted.
look at the peer's version""",
    """GM-8202 400 MARKET_FAILED network final
a message for somebody else
A signed message names another recipient; it was dropped.
look at the peer's version""",
    """GM-8203 400 MARKET_FAILED network final
a repeated message
A message's number is not above the last one; it was dropped.
look at the peer's version""",
    """GM-8204 400 MARKET_FAILED network final
a message outside its time
A message's deadline has passed or lies too far ahead; often a clock is off.
sudo timedatectl set-ntp true""",
    """GM-8210 400 MARKET_FAILED network final
a malformed frame
The framing of a session was broken; the session was closed.
look at the peer's version""",
    """GM-8211 400 MARKET_FAILED network final
a frame over the limit
A peer announced or sent more than it may; the session was closed.
look at the peer's version""",
    """GM-8212 400 MARKET_FAILED network final
another version of the session protocol
The peer speaks a version that we do not.
gpumarket version""",
    # ---- 9xxx: bugs ------------------------------------------------------------------------
    """GM-9001 500 BUG none final
a bug of ours
Something happened that must not happen; the command stopped where it was.
run the command again with -vv and report what it prints""",
    """GM-9002 500 BUG none final
the state is damaged
What is on disk contradicts itself; the process stopped and touched nothing.
keep the data folder as it is and report it""",
)
