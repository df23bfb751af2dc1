// Package proto holds the numbers and the fixed layouts of the NBD protocol,
// shared by the server and the client. The source is doc/proto.md of the
// NetworkBlockDevice/nbd project; all integers are big-endian.
package proto

// Magic numbers.
const (
	InitMagic            = 0x4e42444d41474943 // "NBDMAGIC"
	OptionMagic          = 0x49484156454F5054 // "IHAVEOPT"
	OptionReplyMagic     = 0x0003e889045565a9
	RequestMagic         = 0x25609513
	SimpleReplyMagic     = 0x67446698
	StructuredReplyMagic = 0x668e33ef
)

// Handshake flags (server) and client flags.
const (
	FlagFixedNewstyle = 1 << 0
	FlagNoZeroes      = 1 << 1

	ClientFixedNewstyle = 1 << 0
	ClientNoZeroes      = 1 << 1
)

// Transmission flags.
const (
	FlagHasFlags        uint16 = 1 << 0
	FlagReadOnly        uint16 = 1 << 1
	FlagSendFlush       uint16 = 1 << 2
	FlagSendFUA         uint16 = 1 << 3
	FlagRotational      uint16 = 1 << 4
	FlagSendTrim        uint16 = 1 << 5
	FlagSendWriteZeroes uint16 = 1 << 6
	FlagSendDF          uint16 = 1 << 7
	FlagCanMultiConn    uint16 = 1 << 8
	FlagSendCache       uint16 = 1 << 10
	FlagSendFastZero    uint16 = 1 << 11
)

// Options of the handshake.
const (
	OptExportName      uint32 = 1
	OptAbort           uint32 = 2
	OptList            uint32 = 3
	OptStartTLS        uint32 = 5
	OptInfo            uint32 = 6
	OptGo              uint32 = 7
	OptStructuredReply uint32 = 8
	OptListMetaContext uint32 = 9
	OptSetMetaContext  uint32 = 10
)

// Replies to options. Errors have bit 31 set.
const (
	RepAck         uint32 = 1
	RepServer      uint32 = 2
	RepInfo        uint32 = 3
	RepMetaContext uint32 = 4

	RepErrFlag     uint32 = 1 << 31
	RepErrUnsup    uint32 = RepErrFlag + 1
	RepErrPolicy   uint32 = RepErrFlag + 2
	RepErrInvalid  uint32 = RepErrFlag + 3
	RepErrPlatform uint32 = RepErrFlag + 4
	RepErrTLSReqd  uint32 = RepErrFlag + 5
	RepErrUnknown  uint32 = RepErrFlag + 6
	RepErrShutdown uint32 = RepErrFlag + 7
	RepErrTooBig   uint32 = RepErrFlag + 9
)

// Kinds of information in a RepInfo.
const (
	InfoExport      uint16 = 0
	InfoName        uint16 = 1
	InfoDescription uint16 = 2
	InfoBlockSize   uint16 = 3
)

// Commands of the transmission phase.
const (
	CmdRead        uint16 = 0
	CmdWrite       uint16 = 1
	CmdDisc        uint16 = 2
	CmdFlush       uint16 = 3
	CmdTrim        uint16 = 4
	CmdCache       uint16 = 5
	CmdWriteZeroes uint16 = 6
	CmdBlockStatus uint16 = 7
)

// Command flags.
const (
	CmdFlagFUA      uint16 = 1 << 0
	CmdFlagNoHole   uint16 = 1 << 1
	CmdFlagDF       uint16 = 1 << 2
	CmdFlagReqOne   uint16 = 1 << 3
	CmdFlagFastZero uint16 = 1 << 4
)

// Structured reply chunks.
const (
	ReplyFlagDone uint16 = 1 << 0

	ReplyNone        uint16 = 0
	ReplyOffsetData  uint16 = 1
	ReplyOffsetHole  uint16 = 2
	ReplyBlockStatus uint16 = 5
	ReplyError       uint16 = 1<<15 + 1
)

// Sizes in bytes.
const (
	MaxString        = 4096    // export names, queries, messages
	DefaultMaxLength = 1 << 25 // payload every client may assume
	MaxExtents       = 1 << 20 // descriptors of one block status chunk

	RequestSize     = 28
	SimpleReplySize = 16
	ChunkHeaderSize = 20
)
