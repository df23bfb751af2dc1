// Package identity says who an agent is, and lets nobody else in: the cluster's own certificate authority, the
// certificates of agents, TLS between them, the one port that all protocols share, and the tokens that admit new agents.
//
// A cluster has one CA (NewCA), which trusts no other and is trusted nowhere else. An agent makes its key itself and asks
// with a signing request; CA.Issue answers with a certificate that names the agent by a URI:
//
//	flotilla://<cluster ID>/agent/<agent ID>
//
// ServerConfig and ClientConfig speak TLS 1.3 only and want a certificate of the cluster from both sides. Host names mean
// nothing: a peer is the agent that its certificate names (PeerOf), wherever it is. What a certificate may do
// is decided by who asks (the Revoked callback, and the roles of agents above this package).
//
// One TCP port takes every protocol; ALPN tells them apart inside TLS, and Mux hands each connection to the listener of
// its protocol. ProtocolJoin alone takes clients without a certificate: the server proves itself by the CA's
// fingerprint in the joiner's Token, and the joiner proves itself by the token's secret, which is the caller's to check.
package identity
