/** The files of a repository at one commit, on the hub or in the cache. */
export interface RepoFiles {
  /** Paths inside the repository, with forward slashes. */
  paths: readonly string[];
  /** Gives the text of one of them. */
  read: (path: string) => Promise<string>;
}

/** What is needed of a repository. */
export interface Selection {
  /** Paths, in the order in which they shall appear. */
  paths: string[];
  /** The folder inside the repository that counts as the checkpoint or the data set; empty for the whole. */
  folder: string;
}

/** Chooses among a repository's files; throws a D2DMoEError where what is needed is not there. */
export type Select = (files: RepoFiles) => Promise<Selection>;
