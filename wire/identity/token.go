package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"flotilla/wire"
)

// Errors about tokens.
var (
	ErrToken = errors.New("not a join token")
	ErrPin   = errors.New("server's CA is not the one that the token names")
)

const (
	tokenPrefix      = "flotilla-join-v1."
	secretLength     = 32
	maxAddressLength = 255
	tokenFixedLength = 16 + sha256.Size + secretLength + 8 + 1 + 4
)

// Token admits new agents to a cluster. Whoever has it can join until it expires or is withdrawn: it is a secret.
//
// As text it is "flotilla-join-v1." and the following in unpadded base64url, with little-endian numbers:
//
//	0         16            48       80        88       89
//	| cluster | fingerprint | secret | expires | length | address … | CRC32C |
//	| 16 B    | 32 B        | 32 B   | i64     | u8     | length B  | u32    |
//
// Expires counts seconds since 1970; the CRC32C over all before it finds mistakes in copying.
type Token struct {
	Cluster       wire.ClusterID
	Address       string            // host:port of an agent that takes joiners
	CAFingerprint [sha256.Size]byte // what the joiner knows the cluster by
	Secret        [secretLength]byte
	Expires       time.Time // a label for people: the cluster decides, by its own record
}

// NewToken draws the secret of a new token.
func NewToken(cluster wire.ClusterID, address string, fingerprint [sha256.Size]byte, expires time.Time) (Token, error) {
	if address == "" || len(address) > maxAddressLength {
		return Token{}, fmt.Errorf("make join token: address has %d characters, want 1 to %d", len(address), maxAddressLength)
	}
	t := Token{Cluster: cluster, Address: address, CAFingerprint: fingerprint, Expires: expires.Truncate(time.Second).UTC()}
	if _, err := rand.Read(t.Secret[:]); err != nil {
		return Token{}, fmt.Errorf("make join token: %w", err)
	}
	return t, nil
}

// Text returns the token as people pass it on. It contains the secret; String does not.
func (t Token) Text() string {
	raw := make([]byte, 0, tokenFixedLength+len(t.Address))
	raw = append(raw, t.Cluster[:]...)
	raw = append(raw, t.CAFingerprint[:]...)
	raw = append(raw, t.Secret[:]...)
	raw = binary.LittleEndian.AppendUint64(raw, uint64(t.Expires.Unix()))
	raw = append(raw, byte(len(t.Address)))
	raw = append(raw, t.Address...)
	raw = binary.LittleEndian.AppendUint32(raw, tokenSum(raw))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

// String describes the token without its secret, for logs.
func (t Token) String() string {
	return fmt.Sprintf("join token for cluster %v at %s until %s", t.Cluster, t.Address, t.Expires.Format(time.RFC3339))
}

// GoString keeps the secret out of %#v as well.
func (t Token) GoString() string { return t.String() }

func tokenSum(raw []byte) uint32 { return crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli)) }

// ParseToken reads a token's text. It fails with ErrToken, and its messages do not repeat the text.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	encoded, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("parse token: it does not begin with %q: %w", tokenPrefix, ErrToken)
	}
	if len(encoded) > base64.RawURLEncoding.EncodedLen(tokenFixedLength+maxAddressLength) {
		return Token{}, fmt.Errorf("parse token: %d characters are too many: %w", len(text), ErrToken)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return Token{}, fmt.Errorf("parse token: it is not base64url: %w", ErrToken)
	}
	if len(raw) < tokenFixedLength || len(raw) != tokenFixedLength+int(raw[88]) || raw[88] == 0 {
		return Token{}, fmt.Errorf("parse token: it has the wrong length; was it cut off in copying? %w", ErrToken)
	}
	if binary.LittleEndian.Uint32(raw[len(raw)-4:]) != tokenSum(raw[:len(raw)-4]) {
		return Token{}, fmt.Errorf("parse token: its checksum is wrong; was it changed in copying? %w", ErrToken)
	}
	t := Token{
		Address: string(raw[89 : len(raw)-4]),
		Expires: time.Unix(int64(binary.LittleEndian.Uint64(raw[80:])), 0).UTC(),
	}
	copy(t.Cluster[:], raw)
	copy(t.CAFingerprint[:], raw[16:])
	copy(t.Secret[:], raw[48:])
	if t.Text() != text {
		return Token{}, fmt.Errorf("parse token: it is not written as tokens are: %w", ErrToken)
	}
	return t, nil
}

// SecretHash returns what the cluster keeps of a token instead of its secret.
func (t Token) SecretHash() [sha256.Size]byte { return sha256.Sum256(t.Secret[:]) }

// SecretMatches compares a secret that a joiner has sent with a kept hash, in constant time.
func SecretMatches(secret []byte, hash [sha256.Size]byte) bool {
	have := sha256.Sum256(secret)
	return subtle.ConstantTimeCompare(have[:], hash[:]) == 1
}

// JoinConfig returns the config of a joiner's connection: it trusts the CA that the token pins and shows no certificate.
func JoinConfig(t Token, policy Policy) *tls.Config {
	c := policy.base([]string{ProtocolJoin})
	c.InsecureSkipVerify = true // VerifyConnection replaces the stock verification
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if state.NegotiatedProtocol != ProtocolJoin {
			return fmt.Errorf("server speaks %q, want %q: %w", state.NegotiatedProtocol, ProtocolJoin, ErrPeer)
		}
		for _, ca := range state.PeerCertificates {
			fingerprint := Fingerprint(ca)
			if subtle.ConstantTimeCompare(fingerprint[:], t.CAFingerprint[:]) == 1 {
				_, err := verifyPeer(state.PeerCertificates, ca, t.Cluster, policy.now())
				return err
			}
		}
		return fmt.Errorf("join cluster %v: %w", t.Cluster, ErrPin)
	}
	return c
}

// DialJoin connects to the agent that a token names and makes sure that it is of the token's cluster. Only then may the
// secret be sent.
func DialJoin(ctx context.Context, t Token, policy Policy) (*Conn, error) {
	c, err := dial(ctx, t.Address, JoinConfig(t, policy), policy)
	if err != nil {
		return nil, fmt.Errorf("dial %s to join: %w", t.Address, err)
	}
	return c, nil
}
